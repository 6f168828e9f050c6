"""Encoders on the Hugging Face Hub: addresses, downloads and uploads, the model card."""
