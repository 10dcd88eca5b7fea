"""Moving pictures: a world's dynamics in latent space, and clips as codes."""

from audiovq.video.dynamics import LatentDynamics
from audiovq.video.model import VideoModel
from audiovq.video.rollout import Rollout, roll_out

__all__ = ["LatentDynamics", "Rollout", "VideoModel", "roll_out"]
