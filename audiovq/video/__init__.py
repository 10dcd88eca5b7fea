"""Video: action-conditioned prediction in the latent space of a frame codec, and a codec for video clips."""

from audiovq.video.clip_codec import ClipCodec, EncodedClip
from audiovq.video.dynamics import LatentDynamics, Rollout, VideoModel, roll_out

__all__ = ["ClipCodec", "EncodedClip", "LatentDynamics", "Rollout", "VideoModel", "roll_out"]
