"""The part of MLflow's REST interface that a tracker uses, in this process: it can go away, come back and be slow."""

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class MlflowServer:
    """`runs` by id: tags, params, metrics as a list of points as they arrived, status. Files go to `folder`.

    `tags` are those of its experiments by id, `tags_set` their keys as they arrived; `read_only` refuses them.
    """

    def __init__(self, folder, port=0):
        self.folder, self.experiments, self.runs, self.delay_s = folder, {}, {}, 0.0
        self.requests, self.tags, self.tags_set, self.read_only = 0, {}, [], False
        self.start(port)

    def start(self, port=None):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                self.reply({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})

            def do_POST(self):  # noqa: N802
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            do_PATCH = do_POST  # noqa: N815

            def reply(self, request):
                server.requests += 1
                time.sleep(server.delay_s)
                name = urlsplit(self.path).path.split("/mlflow/")[-1].replace("/", "_").replace("-", "_")
                status, content = getattr(server, name, server.unknown)(request)
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", self.port if port is None else port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def run(self):
        (run,) = self.runs.values()
        return run

    def unknown(self, request):
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": f"no such interface; {request}"}

    def experiments_get_by_name(self, request):
        if request["experiment_name"] not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}
        name = request["experiment_name"]
        facts = {"experiment_id": self.experiments[name], "name": name, "lifecycle_stage": "active"}
        return 200, {"experiment": facts}

    def experiments_create(self, request):
        self.experiments[request["name"]] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[request["name"]]}

    def experiments_get(self, request):
        number = request["experiment_id"]
        tags = [{"key": key, "value": value} for key, value in self.tags.get(number, {}).items()]
        return 200, {"experiment": {"experiment_id": number, "lifecycle_stage": "active", "tags": tags}}

    def experiments_set_experiment_tag(self, request):
        if self.read_only:
            return 403, {"error_code": "PERMISSION_DENIED", "message": "only its owner may change the experiment"}
        self.tags_set.append(request["key"])
        self.tags.setdefault(request["experiment_id"], {})[request["key"]] = request["value"]
        return 200, {}

    def runs_create(self, request):
        run_id = uuid.uuid4().hex  # MLflow remembers the folder of an id
        tags = {tag["key"]: tag["value"] for tag in request["tags"]}
        self.runs[run_id] = {"tags": tags, "params": {}, "metrics": [], "status": "RUNNING", "batches": 0}
        return 200, {"run": self.described(run_id)}

    def runs_get(self, request):
        if request["run_id"] not in self.runs:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}
        return 200, {"run": self.described(request["run_id"])}

    def runs_search(self, request):
        key = request["filter"].split("'")[1]
        found = [run_id for run_id, run in self.runs.items() if run["tags"]["swapdistill.key"] == key]
        return 200, {"runs": [self.described(run_id) for run_id in found]}

    def runs_update(self, request):
        self.runs[request["run_id"]]["status"] = request["status"]
        return 200, {"run_info": self.described(request["run_id"])["info"]}

    def runs_log_batch(self, request):
        run = self.runs[request["run_id"]]
        if any(metric["key"] == "forbidden" for metric in request.get("metrics", ())):
            return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "forbidden"}
        run["batches"] += 1
        run["metrics"] += request.get("metrics", [])
        for kind in ("tags", "params"):
            run[kind].update({entry["key"]: entry["value"] for entry in request.get(kind, ())})
        return 200, {}

    def runs_set_tag(self, request):
        self.runs[request["run_id"]]["tags"][request["key"]] = request["value"]
        return 200, {}

    def artifacts_list(self, request):
        folder = self.folder / request["run_id"]
        paths = sorted((folder / request.get("path", "")).glob("*"))
        files = [{"path": str(p.relative_to(folder)), "is_dir": p.is_dir(), "file_size": 1} for p in paths]
        return 200, {"root_uri": str(folder), "files": files}

    def described(self, run_id):
        run = self.runs[run_id]
        info = {
            "run_id": run_id, "experiment_id": "1", "status": run["status"], "lifecycle_stage": "active",
            "start_time": 1, "artifact_uri": str(self.folder / run_id),
        }  # fmt: skip
        params = [{"key": key, "value": value} for key, value in run["params"].items()]
        return {"info": info, "data": {"params": params}}
