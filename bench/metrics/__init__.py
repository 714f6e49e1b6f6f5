"""Measures of generated images: they take images or features and return numbers.

Usable alone: nothing here knows a suite, a training or where results are kept, and nothing is imported of `bench` but
`errors`, `seeds` and `registry`. Everywhere real comes before generated, by keyword; statistics are taken in float64.

- `records`: what every measure is called, its range and better direction (imports neither NumPy nor torch)
- `features`: what a feature extractor is, and random features; `domain`, `inception`: the other extractors
- `frechet`, `kernel`, `gaussian_kernel`, `inception_score`, `manifold`: measures on features
- `similarity`, `histogram`, `lpips`, `memorization`: measures on images
- `against`: one set of real images and every measure against it, each tried by itself
- `statistics`: means, resampling of subjects, intervals; `cost`: seconds, bytes, parameters
"""
