"""Real data that is always there: offline, seeded, from libraries that are installed anyway.

- `documents`: docstrings and Python source files, of heavy-tailed length.
- `glyphs`: images of characters and their Unicode names; `timeline` knows their years.
- `scenes`: several glyphs over photographs with exact masks, boxes and depth.
- `photos`: the photographs in scikit-image's and scikit-learn's wheels, one true stereo pair.

`python -m tenfold.demo_data` counts, shows and exports them; `shared/DEMO_DATA.md` describes them.
Nothing here imports torch.
"""
