"""Measures of one picture, one per module, and the table of them all."""

from lsb.metrics.picture.measure import PictureMeasure
from lsb.metrics.picture.psnr import PSNR
from lsb.metrics.picture.structure_distance import STRUCTURE_DISTANCE
from lsb.metrics.picture.tone_distance import TONE_DISTANCE

MEASURES: tuple[PictureMeasure, ...] = (
    STRUCTURE_DISTANCE,
    TONE_DISTANCE,
    PSNR,
)
