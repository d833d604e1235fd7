# One replica of Walnut. The image holds the program; all state is in /data.
# Built and checked with Python 3.11; requirements.lock names every package by its hash.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/walnut
ENV PATH=/opt/walnut/bin:$PATH
WORKDIR /src
COPY requirements.lock ./
RUN pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE gunicorn.conf.py ./
COPY static static
COPY api api
RUN pip install --no-deps .

FROM python:${PYTHON}-slim
# A fixed number, so that a volume keeps its owner from one image to the next.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin walnut \
    && install --directory --owner walnut --group walnut --mode 0700 /data
COPY --from=build /opt/walnut /opt/walnut
ENV PATH=/opt/walnut/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    APP_ENV=production \
    HOST=0.0.0.0 \
    PORT=3000 \
    INSTANCE_PATH=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 3000
# `walnut serve` ends Gunicorn gracefully on SIGTERM: give it more than 25 s (docker stop --time 40).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as http; http.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health/live', timeout=2)"]
ENTRYPOINT ["walnut"]
CMD ["serve"]
