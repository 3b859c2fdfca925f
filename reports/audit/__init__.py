"""The audit page: what a run shows about a detector, point by point of two public catalogues, and what is missing."""

from __future__ import annotations

from reports.audit.page import render_audit, write_audit

__all__ = ["render_audit", "write_audit"]
