from genrank.simulation.options import WorldConfig
from genrank.simulation.simulate import SimulationSummary, simulate

__all__ = ["SimulationSummary", "WorldConfig", "simulate"]
