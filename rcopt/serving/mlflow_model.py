"""The MLflow model around a cascade's folder: code, signature, example, requirements."""

import base64
import io
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

_REQUIREMENTS = ("mlflow", "torch", "torchvision", "numpy", "pillow", "safetensors", "pandas")


def save_mlflow_model(
    target: Path, cascade: Path, example: str, *, model_id: str, run_id: str, timm: bool = False
) -> None:
    """Write an MLflow model made from code, with a cascade's folder as its artifact.

    Args:
        target: Folder to make.
        cascade: What `rcopt.cascade_files.save_cascade` wrote; copied.
        example: A picture in base64, the input example.
        model_id: MLflow's logged model that it becomes.
        run_id: The cascade's run.
        timm: Whether timm is needed to build its networks.
    """
    with warnings.catch_warnings():
        # MLflow's own imports warn about each other; no user can act on it.
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        import pandas as pd
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema

        signature = ModelSignature(
            Schema([ColSpec("string", "image")]),
            Schema(
                [
                    ColSpec("string", "class", required=False),
                    ColSpec("double", "probability", required=False),
                    ColSpec("long", "stage", required=False),
                    ColSpec("string", "stage_name", required=False),
                    ColSpec("double", "flops", required=False),
                    ColSpec("string", "error", required=False),
                    ColSpec("string", "alarm", required=False),
                ]
            ),
        )
        model = Model(model_id=model_id, run_id=run_id)
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"cascade": str(cascade)},
            signature=signature,
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=_requirements(*_REQUIREMENTS, *["timm"] * timm),
            mlflow_model=model,
        )
        # MLflow notes where it took the files from; that is nobody's business.
        flavor = model.flavors["python_function"]
        flavor["model_code_path"] = Path(flavor["model_code_path"]).name
        del flavor["artifacts"]["cascade"]["uri"]
        model.save(str(target / "MLmodel"))


def example_picture(side: int) -> str:
    """Return a small picture in base64: a gradient, as no user's image belongs in a model."""
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(128)), axis=2)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _requirements(*names: str) -> list[str]:
    # The local part of a version, such as +cpu, names a build that other machines cannot have.
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]
