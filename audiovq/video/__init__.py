"""Moving pictures: a world's dynamics in latent space, and clips as codes."""

from audiovq.video.clip import ClipCodec, EncodedClip
from audiovq.video.dynamics import LatentDynamics
from audiovq.video.model import VideoModel
from audiovq.video.rollout import Rollout, roll_out

__all__ = ["ClipCodec", "EncodedClip", "LatentDynamics", "Rollout", "VideoModel", "roll_out"]
