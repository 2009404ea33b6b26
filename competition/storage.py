"""Optuna's storage of studies: opened so that processes take turns, and what it raises told with its name."""

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from competition.files import InputError

GRACE = 4  # heartbeats that a trial may miss before it counts as dead


def open_storage(url: str, heartbeat_seconds: int) -> RDBStorage:
    """Return the storage, in which running trials leave heartbeats; raises InputError where it cannot be used."""
    is_file = url.startswith("sqlite")
    options = {"connect_args": {"timeout": 60}} if is_file else {"pool_pre_ping": True}
    with reachable(url):
        arguments = {"heartbeat_interval": heartbeat_seconds, "grace_period": GRACE * heartbeat_seconds}
        try:
            storage = RDBStorage(url, options, **arguments)
        except SQLAlchemyError as error:  # another process that makes the same tables was faster
            if not re.search("exists|duplicate|UNIQUE", str(error)):
                raise
            time.sleep(1)
            storage = RDBStorage(url, options, **arguments)
        if is_file:
            _write_in_turn(storage.engine)
    return storage


def _write_in_turn(engine: sqlalchemy.Engine) -> None:
    """Let each transaction of SQLite lock before it reads, or two processes may take the same trial.

    The recipe of SQLAlchemy's documentation (SQLite, "Enabling Non-Legacy SQLite Transactional Modes").
    """
    sqlalchemy.event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    sqlalchemy.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections from before


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn what a storage that fails raises into an InputError that names it, without its password."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, since 2.8
            yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        shown = re.sub(r"(?<=password=)[^&]*|(?<=:)(?!//).*(?=@)", "***", url)
        raise InputError(
            f"The storage {shown} cannot be used ({reason}); nothing was lost: mend it, or name another one with "
            "--storage, and give the same command again."
        ) from error
