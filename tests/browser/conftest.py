"""A real Chromium (the system's, never a downloaded one), pages that are watched for errors, and a JupyterLab of its own."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from resattn import paths

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PHONE, DESKTOP = (390, 844), (1280, 900)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# JupyterLab as it comes asks whether to fetch news, and lazily leaves out what is not in view.
_LAB_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@pytest.fixture(scope="session")
def browser():
    """Chromium, for the whole session; the tests are skipped where the system has none."""
    chromium = next(filter(None, map(shutil.which, _NAMES)), None)
    if chromium is None:
        pytest.skip(
            f"no Chromium on this system (looked for {', '.join(_NAMES)}); Debian has it as: apt install chromium"
        )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """Open an address in a window of its own; ``page.complaints`` collects console errors, failed requests and foreign addresses."""
    contexts = []

    def open_page(address: str, size: tuple[int, int] = DESKTOP, scheme: str = "light"):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.on(
            "console", lambda message: message.type in ("error", "warning") and page.complaints.append(message.text)
        )
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("requestfailed", lambda request: page.complaints.append(f"failed: {request.url[:200]}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:", "blob:"))
                or page.complaints.append(f"asked for {request.url[:200]}")
            ),
        )
        page.on("dialog", lambda dialog: (page.complaints.append(f"a script said {dialog.message}"), dialog.dismiss()))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A JupyterLab with copies of the notebooks, outputs cleared; call it with a notebook's name for the address that opens it."""
    folder = tmp_path_factory.mktemp("lab")
    notebooks, runtime = folder / "notebooks", folder / "runtime"
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        notebooks.mkdir(exist_ok=True)
        nbformat.write(notebook, notebooks / path.name)
    for name, settings in _LAB_SETTINGS.items():
        file = folder / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ServerApp.port=0"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={notebooks}"]
    environment = {name: value for name, value in os.environ.items() if name != "RESATTN_HEADLESS"} | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(paths.CHECKOUT), os.environ.get("PYTHONPATH")])),
        "RESATTN_HOME": str(folder / "home"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "share"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    log = folder / "lab.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = _wait_for_server(server, runtime, log)
        yield lambda name: f"{address}lab/tree/{name}?token={token}&reset"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for_server(server: subprocess.Popen, runtime: Path, log: Path, seconds: float = 90) -> str:
    """The address the server says it has, once it answers there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(OSError, ValueError):
                address = json.loads(file.read_text())["url"]
                urllib.request.urlopen(f"{address}api", timeout=5).close()
                return address
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def ran_notebook(browser, lab) -> Iterator[Callable]:
    """Open a notebook in JupyterLab, run all its cells through the menu and wait for the last one; once a session for each notebook.

    Returns the page; what came out lies in ``page.locator(".jp-OutputArea-output")``.
    """
    context = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    pages = {}

    def run(name: str, seconds: float = 240):
        if name not in pages:
            page = pages[name] = context.new_page()
            page.goto(lab(name))
            page.locator(".jp-Toolbar-kernelName", has_text="Python").wait_for(timeout=60_000)  # no longer "No Kernel"
            page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=60_000)
            page.locator(".lm-MenuBar-item", has_text="Run").click()
            page.locator(".lm-Menu-item:not(.lm-mod-disabled)", has_text="Run All Cells").first.click()
            try:  # twice a second: to look at each frame would cost the kernel its core
                page.wait_for_function(_ENDED, polling=500, timeout=1000 * seconds)
            except sync_api.TimeoutError:
                prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
                dialogs = page.locator(".jp-Dialog").all_inner_texts()
                raise AssertionError(
                    f"{name} has not ended after {seconds:g} s; cells {prompts}, dialogs {dialogs}"
                ) from None
        return pages[name]

    yield run
    context.close()


# A notebook has ended when its last code cell has a number, or when any cell has failed.
_ENDED = """() => {
    const prompts = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')];
    const failed = document.querySelector('.jp-Notebook [data-mime-type="application/vnd.jupyter.error"]');
    return failed || (prompts.length && /\\d/.test(prompts.at(-1).textContent));
}"""
