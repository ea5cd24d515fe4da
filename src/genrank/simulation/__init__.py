from genrank.simulation.world import SimulationSummary, simulate
from genrank.simulation.world_config import WorldConfig

__all__ = ["SimulationSummary", "WorldConfig", "simulate"]
