"""Files of sound, images and video: read and written without any model."""
