"""Augmentation that is drawn once, stored as a few numbers and replayed bit for bit.

- `config`, `params`: the options of a pipeline, and what was drawn for one view.
- `drawing`: draws from keyed generators, with torchvision's distributions.
- `pipeline`: `Augment`, which draws a view and makes its pixels, any number of times the same.
- `geometry`, `randaugment`, `mixing`: the pixels of each step.
- `magnitudes`: RandAugment's pinned table.
- `positional`: the official list form of the parameters.

Pixels are made by `torchvision.transforms.v2.functional` on uint8 tensors on the CPU, at recording
and at replay alike, and need the extra `augment`. Everything else imports neither torch nor
torchvision.
"""
