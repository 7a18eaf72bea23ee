"""Records of a run in MLflow, and the page of MLflow's web interface that compares the runs."""

from .tracker import Run, Tracker, TrackingError

__all__ = ["Run", "Tracker", "TrackingError"]
