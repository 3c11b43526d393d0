"""Stands in for the Hugging Face hub: what of its HTTP interface a model needs, out and back."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret"


class Hub:
    """A server of its own on this machine, and all that it holds. Stop it with `close`."""

    def __init__(self):
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        """Files of every commit of a repository, oldest first."""
        self.tags: dict[str, dict[str, int]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.broken: dict[str, str] = {}
        """By file: `cut`, the connection ends in the middle; `garbage`, other bytes of the same length."""
        self.asked: list[str] = []

        class Handler(_Handler):
            hub = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sha(self, repo: str, index: int) -> str:
        return hashlib.sha1(f"{repo} {index}".encode()).hexdigest()

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision."""
        commits = self.commits.get(repo, [])
        shas = [self.sha(repo, index) for index in range(len(commits))]
        named = {"main": len(commits) - 1} | self.tags.get(repo, {})
        index = shas.index(revision) if revision in shas else named.get(revision, -1)
        return (shas[index], commits[index]) if index >= 0 else None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def send(self, status: int, body: Any = None, head: bool = False, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if not head:
            self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self, head: bool = False) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.listed(found[1], found[2] or "main", tree=False)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self.listed(found[1], found[2], tree=True)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(*found.groups(), head=head)
        else:
            self.send(404, {"error": f"no {path}"}, head)

    def do_HEAD(self) -> None:
        self.do_GET(head=True)

    def listed(self, repo: str, revision: str, tree: bool) -> None:
        found = self.hub.find(repo, revision)
        if found is None:
            what = "Revision" if repo in self.hub.commits else "Repo"
            self.send(404, {"error": f"{what} not found"}, X_Error_Code=f"{what}NotFound")
            return
        sha, files = found
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in files.items()
        ]
        about = {"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]}
        self.send(
            200,
            entries if tree else about | {"private": repo in self.hub.private, "tags": [], "downloads": 0},
        )

    def file(self, repo: str, revision: str, name: str, head: bool) -> None:
        found = self.hub.find(repo, revision)
        if found is None or name not in found[1]:
            self.send(404, {"error": "Entry not found"}, head, X_Error_Code="EntryNotFound")
            return
        sha, data = found[0], found[1][name]
        marks = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": sha}
        how = None if head else self.hub.broken.get(name)
        if how == "cut":
            self.send(200, data, head=True, **marks)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if how == "garbage":
            data = bytes(len(data))
        self.send(200, data, head, **marks)

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.body()
        self.hub.asked.append(path)
        if path == "/api/validate-yaml":
            self.send(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            given = json.loads(body)
            repo = f"{given['organization']}/{given['name']}"
            taken = repo in self.hub.commits
            if not taken:
                self.hub.commits[repo] = [{".gitattributes": b"*.safetensors filter=lfs\n"}]
            if given.get("private") or given.get("visibility") == "private":
                self.hub.private.add(repo)
            self.send(409 if taken else 200, {"url": f"{self.hub.url}/{repo}", "name": repo})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            self.send(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                each | {"actions": {"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.send(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.send(404, {"error": f"no {path}"})

    def do_PUT(self) -> None:
        oid, data = self.path.rpartition("/")[2], self.body()
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.objects[oid] = data
        self.send(200, {})

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.commits[repo][-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.commits[repo].append(files)
        sha = self.hub.sha(repo, len(self.hub.commits[repo]) - 1)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})
