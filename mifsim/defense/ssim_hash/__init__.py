"""The paper's filter (Algorithm 2): the detector kind ``ssim-hash``."""
