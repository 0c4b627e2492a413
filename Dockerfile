# The proxy, without root and without pip. Base images come from wherever your builder looks for them.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/devroute
COPY pyproject.toml constraints.txt README.md ./
COPY lua lua
COPY demo demo
COPY devroute devroute
RUN python -m pip --python /opt/devroute/bin/python install \
        --no-cache-dir --disable-pip-version-check --compile --constraint constraints.txt .

FROM python:3.13-slim
COPY --from=build /opt/devroute /opt/devroute
ENV PATH=/opt/devroute/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The number that the Deployment demands; it has no home, writes nothing, and needs no name.
USER 65532:65532
EXPOSE 8080 8081 9090
ENTRYPOINT ["devroute"]
CMD ["proxy"]
