from genrank.simulation.options import WorldConfig
from genrank.simulation.world import SimulationSummary, simulate

__all__ = ["SimulationSummary", "WorldConfig", "simulate"]
