"""Procedural sleep recordings: five sensors that know of each other, five stages, many people.

Nothing here was measured: rates, amplitudes and couplings are set by hand to what textbooks say, so
that spectra, events and the dependence between sensors are of the right kind, not of any person.
"""

from biofame.synthetic.config import SENSORS, STAGES, SleepConfig
from biofame.synthetic.sleep import GENERATION, generate, subject_name, units_of

__all__ = ["GENERATION", "SENSORS", "STAGES", "SleepConfig", "generate", "subject_name", "units_of"]
