"""Numerics that rooms above share: linear maps of images, balls, derivative products, Gram passes."""
