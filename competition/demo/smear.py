"""Drawn blood smears: a stained cell of one of eight classes among red cells, in varying light."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = 96
Colour = tuple[int, int, int]
Range = tuple[float, float]


@dataclass(frozen=True)
class Nucleus:
    """Lobes along an arc; radii are shares of the cell's radius, `arc_angle` is in radians."""

    colour: Colour
    num_lobes: tuple[int, int]
    lobe_radius: Range
    arc_radius: Range
    arc_angle: Range


@dataclass(frozen=True)
class Granules:
    """Grains that cover a share of the cytoplasm, and another share of the nucleus."""

    colour: Colour
    coverage: Range
    coverage_nucleus: float = 0.0


@dataclass(frozen=True)
class CellClass:
    """How the cells of one class look: colours are RGB in 0..255, pairs the ends of a uniform draw.

    radius: pixels. roughness: pixels by which outlines stray from ellipses. cytoplasm: two colours,
    mixed anew for every cell.
    """

    name: str
    radius: Range
    roughness: float
    cytoplasm: tuple[Colour, Colour]
    nucleus: Nucleus | None = None
    granules: Granules | None = None
    num_vacuoles: tuple[int, int] = (0, 0)


# In label order.
CLASSES = (
    CellClass(
        "basophil", (25, 33), 1.5, cytoplasm=((196, 146, 190), (160, 115, 175)),
        nucleus=Nucleus((88, 50, 132), (2, 3), (0.42, 0.55), (0.3, 0.45), (1.5, 3.0)),
        granules=Granules((52, 22, 92), (0.45, 0.65), 0.5),
    ),
    CellClass(
        "eosinophil", (26, 34), 1.0, cytoplasm=((205, 130, 135), (190, 120, 150)),
        nucleus=Nucleus((66, 34, 118), (2, 3), (0.33, 0.42), (0.4, 0.5), (1.9, 3.2)),
        granules=Granules((178, 78, 92), (0.4, 0.6)), num_vacuoles=(0, 1),
    ),
    CellClass(
        "erythroblast", (15, 27), 0.6, cytoplasm=((112, 108, 168), (200, 170, 180)),
        nucleus=Nucleus((42, 20, 84), (1, 1), (0.5, 0.72), (0.0, 0.0), (0.0, 0.0)),
    ),
    CellClass(
        "immature granulocyte", (28, 39), 1.8, cytoplasm=((196, 154, 198), (164, 128, 186)),
        nucleus=Nucleus((84, 44, 134), (2, 3), (0.48, 0.6), (0.14, 0.28), (0.6, 1.8)),
        granules=Granules((106, 44, 128), (0.26, 0.44), 0.1), num_vacuoles=(0, 1),
    ),
    CellClass(
        "lymphocyte", (17, 26), 1.3, cytoplasm=((136, 128, 190), (112, 104, 172)),
        nucleus=Nucleus((62, 30, 112), (1, 2), (0.76, 0.9), (0.05, 0.12), (0.0, 3.0)),
    ),
    CellClass(
        "monocyte", (29, 40), 3.2, cytoplasm=((168, 164, 196), (134, 136, 180)),
        nucleus=Nucleus((84, 46, 136), (4, 5), (0.3, 0.4), (0.46, 0.6), (2.2, 3.8)),
        num_vacuoles=(3, 11),
    ),
    CellClass(
        "neutrophil", (24, 33), 1.0, cytoplasm=((232, 204, 208), (208, 178, 200)),
        nucleus=Nucleus((66, 34, 118), (3, 5), (0.22, 0.31), (0.42, 0.56), (3.0, 4.8)),
        granules=Granules((190, 140, 178), (0.1, 0.3)),
    ),
    CellClass(
        "platelet", (6, 13), 1.5, cytoplasm=((196, 166, 200), (168, 136, 190)),
        granules=Granules((96, 52, 128), (0.3, 0.55)),
    ),
)  # fmt: skip


class Smear:
    """A source of drawn images; everything random comes from `generator`."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        axis = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
        self.grid = np.stack(np.meshgrid(axis, axis))  # (2, SIZE, SIZE): x, y
        self._coarse = _make_texture(generator, 14)
        self._fine = _make_texture(generator, 1.9)

    def draw_cell(self, label: int) -> np.ndarray:
        """Return an image (SIZE, SIZE, 3) uint8 of a cell of class `label`, an index of CLASSES."""
        canvas = np.empty((SIZE, SIZE, 3), np.float32)
        canvas[:] = self._vary((253, 229, 203), 2.5)
        kind = CLASSES[label]
        random = self.generator
        radius = float(random.uniform(*kind.radius))
        self._draw_red_cells(canvas, radius)
        if random.random() < 0.2:
            self._draw_debris(canvas, radius)
        place = random.uniform(-4, 4, (2, 1, 1)).astype(np.float32)
        self._draw_body(canvas, kind, radius, self.grid - place)
        return self._expose(canvas)

    def _draw_red_cells(self, canvas: np.ndarray, radius: float) -> None:
        """Draw flat discs with a pale centre around the cell, seldom touching it."""
        random = self.generator
        size = float(random.uniform(13, 17))
        colour = self._vary((208, 168, 168), 5)
        pale = self._vary((240, 212, 194), 4)
        warped = self.grid + self._crop_warp(1.0)
        first = random.uniform(0, 2 * np.pi)
        angles = first + np.linspace(0, 2 * np.pi, self._draw_count((5, 8)))
        for angle in angles + random.normal(0, 0.2, len(angles)):
            centre = _polar(radius + size * random.uniform(0.95, 2.5), angle)
            if np.abs(centre).max() > SIZE / 2 + size:
                continue
            window = _window(centre, size * 1.4)
            field = _distance_to(warped[:, *window], centre) - size * random.uniform(0.9, 1.1)
            _blend(canvas[window], _inside(field, 2.0) * 0.85, colour)
            centre_mask = _inside(field + size * random.uniform(0.5, 0.7), 7.0)
            _blend(canvas[window], centre_mask * random.uniform(0.5, 1), pale)

    def _draw_debris(self, canvas: np.ndarray, radius: float) -> None:
        """Draw a stray fragment at the side, so that a purple speck alone tells no class."""
        random = self.generator
        centre = _polar(radius + random.uniform(10, 20), random.uniform(0, 2 * np.pi))
        window = _window(centre, 10)
        warped = self.grid + self._crop_warp(1.5)
        field = _distance_to(warped[:, *window], centre) - random.uniform(2, 5)
        _blend(canvas[window], _inside(field, 2.0) * 0.85, self._vary((120, 84, 156), 10))

    def _draw_body(
        self, canvas: np.ndarray, kind: CellClass, radius: float, grid: np.ndarray
    ) -> None:
        """Draw the cell itself in one stain: cytoplasm, rim, vacuoles, nucleus and granules."""
        stain = self.generator.normal(0, 6, 3).astype(np.float32)
        share = self.generator.random()
        mixed = [share * a + (1 - share) * b for a, b in zip(*kind.cytoplasm, strict=True)]
        cytoplasm = self._vary(tuple(mixed), 4) + stain
        outline = self._body_field(grid + self._crop_warp(kind.roughness), radius)
        body = _inside(outline, 1.5)
        _blend(canvas, body * 0.95, cytoplasm)
        canvas += (body * (self._crop(self._coarse) * 5 + self._crop(self._fine) * 4))[..., None]
        _blend(canvas, body * _inside(-outline - 2.5, 3.0) * 0.3, cytoplasm * 0.8)
        self._draw_vacuoles(canvas, kind, radius, grid, body)
        nucleus = np.zeros_like(body)
        if kind.nucleus:
            warped = grid + self._crop_warp(kind.roughness)
            field = self._nucleus_field(kind.nucleus, radius, warped)
            nucleus = _inside(field, 1.5) * body
            _blend(canvas, nucleus * 0.96, self._vary(kind.nucleus.colour, 5) + stain)
            canvas += (nucleus * self._crop(self._fine) * 12)[..., None]  # chromatin
        if kind.granules:
            coverage = self.generator.uniform(*kind.granules.coverage) * (1 - nucleus)
            coverage += kind.granules.coverage_nucleus * nucleus
            grains = _inside((1 - 2 * coverage) * 1.6 - self._crop(self._fine), 1.0)
            grains *= coverage > 0.02
            _blend(canvas, body * grains * 0.85, self._vary(kind.granules.colour, 8) + stain)

    def _draw_vacuoles(
        self, canvas: np.ndarray, kind: CellClass, radius: float, grid: np.ndarray, body: np.ndarray
    ) -> None:
        for _ in range(self._draw_count(kind.num_vacuoles)):
            centre = self.generator.normal(0, radius * 0.45, 2)
            window = _window(centre, 10)
            field = _distance_to(grid[:, *window], centre) - self.generator.uniform(1.5, 4.5)
            _blend(canvas[window], body[window] * _inside(field, 1.5), (238, 226, 232))

    def _body_field(self, grid: np.ndarray, radius: float) -> np.ndarray:
        angle = self.generator.uniform(0, np.pi)
        stretch = np.float32(self.generator.uniform(1.0, 1.12))
        cosine = np.float32(np.cos(angle))
        sine = np.float32(np.sin(angle))
        along = grid[0] * cosine + grid[1] * sine
        across = grid[1] * cosine - grid[0] * sine
        return np.asarray(np.hypot(along / stretch, across * stretch) - radius)

    def _nucleus_field(self, nucleus: Nucleus, radius: float, grid: np.ndarray) -> np.ndarray:
        """Return the signed distance in pixels to lobes along an arc, smoothly joined."""
        random = self.generator
        sharpness = 0.7  # per pixel: the fillets between lobes are some 1 / 0.7 pixels wide
        num_lobes = self._draw_count(nucleus.num_lobes)
        first = random.uniform(0, 2 * np.pi)
        angles = first + np.linspace(-0.5, 0.5, num_lobes) * random.uniform(*nucleus.arc_angle)
        arc_radius = radius * random.uniform(*nucleus.arc_radius)
        centres = arc_radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        centres += random.normal(0, 0.04 * radius, centres.shape) - centres.mean(axis=0) * 0.6
        sizes = radius * random.uniform(*nucleus.lobe_radius) * random.uniform(0.9, 1.1, num_lobes)
        depth = np.zeros((SIZE, SIZE), np.float32)
        for centre, size in zip(centres, sizes.tolist(), strict=True):
            depth += np.exp(np.clip(sharpness * (size - _distance_to(grid, centre)), -30, 30))
        return np.asarray(-np.log(depth) / sharpness)

    def _expose(self, canvas: np.ndarray) -> np.ndarray:
        """Return the image of a camera: tint, uneven light, brightness, contrast, noise."""
        random = self.generator
        canvas *= (random.normal(1, 0.008, 3) * random.uniform(0.94, 1.03)).astype(np.float32)
        slope = random.normal(0, 0.06, (2, 1, 1)).astype(np.float32)
        canvas += (self.grid * slope).sum(axis=0)[..., None]
        canvas += random.normal(0, 2.0, (SIZE, SIZE, 1)).astype(np.float32)
        if random.random() < 0.02:  # the bluish light that some smears have
            canvas *= np.array([0.84, 0.92, 1.08], np.float32)
        contrast = random.uniform(0.92, 1.08)
        return np.clip(128 + (canvas - 128) * contrast, 0, 255).astype(np.uint8)

    def _draw_count(self, bounds: tuple[int, int]) -> int:
        """Return a whole number between `bounds`, both included."""
        return int(self.generator.integers(bounds[0], bounds[1] + 1))

    def _crop(self, texture: np.ndarray) -> np.ndarray:
        """Return a window (SIZE, SIZE) of `texture` at a random place."""
        top, left = self.generator.integers(0, texture.shape[0] - SIZE, 2)
        return texture[top : top + SIZE, left : left + SIZE]

    def _crop_warp(self, pixels: float) -> np.ndarray:
        """Return smooth displacements (2, SIZE, SIZE) with a standard deviation of `pixels`."""
        return np.stack([self._crop(self._coarse), self._crop(self._coarse)]) * np.float32(pixels)

    def _vary(self, colour: tuple[float, ...], deviation: float) -> np.ndarray:
        """Return `colour` (3,) with normal noise."""
        return (np.array(colour) + self.generator.normal(0, deviation, 3)).astype(np.float32)


def _make_texture(generator: np.random.Generator, scale: float, side: int = 512) -> np.ndarray:
    """Return smooth noise (side, side), mean 0 and deviation 1, in grains of `scale` pixels."""
    grains = generator.normal(0, 1, (round(side / scale),) * 2).astype(np.float32)
    texture = np.asarray(Image.fromarray(grains).resize((side, side), Image.Resampling.BICUBIC))
    return np.asarray((texture - texture.mean()) / texture.std())


def _polar(distance: float, angle: float) -> np.ndarray:
    return distance * np.array([np.cos(angle), np.sin(angle)])


def _distance_to(grid: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.asarray(np.hypot(grid[0] - np.float32(centre[0]), grid[1] - np.float32(centre[1])))


def _window(centre: np.ndarray, reach: float) -> tuple[slice, slice]:
    """Return the rows and columns within `reach` pixels of `centre`, cut at the edges.

    centre: x and y in pixels from the middle of the image.
    """
    x, y = np.clip(centre + SIZE / 2, 0, SIZE).tolist()
    rows, columns = (slice(max(0, int(at - reach)), int(at + reach) + 1) for at in (y, x))
    return rows, columns


def _inside(field: np.ndarray, softness: float) -> np.ndarray:
    """Return a mask in 0..1 of a signed distance in pixels, negative inside.

    softness: width of its edge in pixels.
    """
    return np.asarray(np.clip(0.5 - field / softness, 0, 1))


def _blend(canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray | Colour) -> None:
    """Paint `colour` over `canvas`, in place, as strongly as `mask` (0..1) says."""
    canvas += mask[..., None].astype(np.float32) * (np.asarray(colour, np.float32) - canvas)
