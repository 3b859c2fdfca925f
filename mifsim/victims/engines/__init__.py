"""The batched interface of all victims, with one engine for each kind of model."""
