"""The guard around an existing FastAPI service, after the commands of ``examples/access_log.py``::

    cp runs/log-*/filter.toml examples/
    python examples/fastapi_service.py examples/digits.onnx examples/guard.toml
    curl -H 'x-user: ann' -F image=@$(find served/uploads -name '*.png' -print -quit) http://127.0.0.1:8000/predict

The guard judges each uploaded image and answers 403 to a blocked user; a user who repeats one image is blocked soon.
In a service of your own, only the line with `GuardMiddleware` is new. Needs ``pip install fastapi
'mifsim[guard,onnx]'``.
"""

import sys

import cv2
import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException, UploadFile

from mifsim.guard import GuardConfig, GuardMiddleware


def service(model_file):
    """Return the service as it was before: it classifies an uploaded image by an ONNX model."""
    app = FastAPI(title="Digits")
    model = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])

    @app.get("/health")
    def health():
        return {"ready": True}

    @app.post("/predict")
    def predict(image: UploadFile):
        pixels = cv2.imdecode(np.frombuffer(image.file.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
        if pixels is None or pixels.shape != (28, 28):
            raise HTTPException(422, "not an image of 28 by 28 pixels")
        (probabilities,) = model.run(None, {"images": pixels[None, None].astype(np.float32) / 255})[0]
        return {"digit": int(probabilities.argmax()), "probabilities": probabilities.tolist()}

    return app


def guarded(model_file, settings_file):
    """Return the service with the guard around it."""
    return GuardMiddleware(service(model_file), GuardConfig.load(settings_file))


if __name__ == "__main__":
    # One process: several of them would forget the images of a client who reaches one after the other.
    uvicorn.run(guarded(*sys.argv[1:3]), host="127.0.0.1", port=8000)
