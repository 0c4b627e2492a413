# The proxy, without root and without pip. Base images come from wherever your builder looks for them.
# To pin the base: --build-arg PYTHON=python:3.13-slim@sha256:... (docs/install.md)
ARG PYTHON=python:3.13-slim
FROM ${PYTHON} AS build
# The time of the commit, for files that would have that of the build: the same sources give the same layers.
ARG SOURCE_DATE_EPOCH=0
WORKDIR /src
RUN python -m venv --without-pip /opt/devroute
# hadolint ignore=DL3008  # the compiler of whichever Debian the base is, and only for this stage
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY image/runtime.txt image/build.txt image/
# Also for setup.py, which compiles what every request passes through: it has to know the types of what that imports.
RUN python -m pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes \
        --requirement image/runtime.txt --requirement image/build.txt \
    && python -m pip --python /opt/devroute/bin/python install --no-cache-dir --disable-pip-version-check \
        --compile --only-binary :all: --require-hashes --requirement image/runtime.txt
COPY pyproject.toml README.md LICENSE setup.py ./
COPY lua lua
COPY demo demo
COPY devroute devroute
RUN DEVROUTE_COMPILE=1 python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps \
        --no-build-isolation --no-index --wheel-dir /wheel . \
    && python -m pip --python /opt/devroute/bin/python install \
        --no-cache-dir --disable-pip-version-check --compile --no-deps --no-index /wheel/*.whl
COPY image/sbom.py image/
# Of what is installed, by the Python that runs it. The base's own packages are a scanner's business.
RUN SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} /opt/devroute/bin/python image/sbom.py > /opt/devroute/sbom.cdx.json

FROM ${PYTHON}
ARG PYTHON
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="devroute" \
      org.opencontainers.image.description="Make a laptop part of a service mesh, for one request at a time" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${PYTHON}"
COPY --from=build /opt/devroute /opt/devroute
ENV PATH=/opt/devroute/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The number that the Deployment demands; it has no home, writes nothing, and needs no name.
USER 65532:65532
EXPOSE 8080 8081 8082 9090
ENTRYPOINT ["devroute"]
CMD ["proxy"]
