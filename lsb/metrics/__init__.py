"""Measures of a translation: per image, between sets of images, and the table of both."""
