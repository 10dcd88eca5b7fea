"""Image codecs: VQ-VAE, its hierarchy, and baselines with other latents."""

from audiovq.image.codec import EncodedImage, ImageCodec

__all__ = ["EncodedImage", "ImageCodec"]
