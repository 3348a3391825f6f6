"""Makes projects that several workers share.

Loaded by ``tests/conftest.py``. An MLflow server keeps its
database where a local store would, so that its runs are read with the helpers of all tests.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.generated_images import make_images
from tests.support.sites import SPACE, NewSite, Site
from tests.support.study_helpers import write_study
from tests.support.tracking_helpers import Server, free_port


@pytest.fixture
def new_site(store_template: Path, tmp_path: Path) -> Iterator[NewSite]:
    with ExitStack() as ends:

        def make(
            storage: str, *search_settings: str, http: bool = True, cascade_runs: int = 1000
        ) -> Site:
            project = tmp_path / "site"
            (project / "mlruns").mkdir(parents=True)
            shutil.copyfile(store_template, project / "mlruns" / "mlflow.db")
            make_images(project / "images")
            settings = "\n".join(["[search]", f'storage = "{storage}"', *search_settings, ""])
            text = SPACE.replace("[search]\n", settings)
            text += f"\n[tracking]\ncascade_runs = {cascade_runs}\n"
            site = Site(project, tmp_path / "commands", None)
            site.folder.mkdir()
            if http:
                site.server = Server(project / "mlruns", free_port())
                site.server.start()
                ends.callback(site.server.kill)
                text += f'uri = "{site.server.uri}"\n'
            write_study(project, text)
            ends.callback(site.end)
            return site

        yield make
