# The proxy, without root and without pip. Base images come from wherever your builder looks for them.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/devroute
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY pyproject.toml constraints.txt README.md setup.py ./
# For setup.py, which compiles what every request passes through: it has to know the types of what that imports.
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > dependencies.txt \
    && python -m pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt \
        mypy setuptools wheel types-PyYAML --requirement dependencies.txt
COPY lua lua
COPY demo demo
COPY devroute devroute
RUN DEVROUTE_COMPILE=1 python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps \
        --no-build-isolation --wheel-dir /wheel . \
    && python -m pip --python /opt/devroute/bin/python install \
        --no-cache-dir --disable-pip-version-check --compile --constraint constraints.txt "$(echo /wheel/*.whl)[uvloop]"

FROM python:3.13-slim
COPY --from=build /opt/devroute /opt/devroute
ENV PATH=/opt/devroute/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The number that the Deployment demands; it has no home, writes nothing, and needs no name.
USER 65532:65532
EXPOSE 8080 8081 9090
ENTRYPOINT ["devroute"]
CMD ["proxy"]
