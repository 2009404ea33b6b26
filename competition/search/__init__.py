"""Prepared data -> studies/, and the best settings of a backbone."""
