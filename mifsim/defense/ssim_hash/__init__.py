"""The paper's filter (Algorithm 2), the kind of detector ``ssim-hash``."""
