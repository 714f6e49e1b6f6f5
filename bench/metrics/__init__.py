"""Measures of generated images: they take images or features and return numbers.

Usable alone: nothing here knows a suite, a training or where results are kept, and nothing is imported of `bench` but
`errors`, `seeds` and `registry`. Everywhere real comes before generated, by keyword; statistics are taken in float64.

- `records`: what every measure is called, its range and better direction (imports neither NumPy nor torch)
- `features`: what a feature extractor is, and random features; `domain`, `radiomics`: others that need no file
- `inception`, `fidelity` (VGG-16, CLIP, DINOv2), `exported` (TorchScript, ONNX): networks; `networks`: what these share,
  bfloat16 and compilation; `weights`: where their files come from (imports no torch); `vit`: DINOv2's transformer
- `frechet`, `kernel`, `gaussian_kernel`, `inception_score`, `manifold`: measures on features
- `similarity`, `histogram`, `lpips`, `memorization`: measures on images
- `against`: one set of real images and every measure against it, each tried by itself
- `classification`: scores of a classifier's predictions; `utility`: classifiers trained on generated images
- `statistics`: means, resampling of subjects, intervals; `comparison`: intervals over seeds, pairs of rows
- `cost`: seconds, bytes, parameters; `side_by_side`: small networks trained on one thread each
"""
