# The worker's image; the same one migrates, and is the gateway (paymaster serve). Build: docker build -t paymaster .
FROM python:3.13.9-slim-trixie AS build
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /app
# The dependencies alone first: a change of our code then leaves this layer as it is.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-default-groups --extra all --no-install-project
COPY paymaster ./paymaster
COPY workflows ./workflows
COPY activities ./activities
COPY operations ./operations
COPY migrations ./migrations
COPY worker.py ./
RUN uv sync --frozen --no-default-groups --extra all

FROM python:3.13.9-slim-trixie
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin paymaster
WORKDIR /app
COPY --from=build /app /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PAYMASTER_CONFIG=/etc/paymaster/paymaster.toml \
    PAYMASTER__WORKER__HEALTH_ADDRESS=0.0.0.0:8000
USER 10001
EXPOSE 8000 4000
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
# SIGTERM lets running calls finish: give it [worker] grace_period and 15 s more (docker stop --timeout).
CMD ["python", "worker.py"]
