# trackoffline in a container: docs/operating.md has the line that runs it.
#
# The base is named by its tag. To pin it, give the digest that your registry shows:
#   docker build --build-arg PYTHON_IMAGE=docker.io/library/python:3.13-slim-bookworm@sha256:... .
ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/trackoffline
WORKDIR /source
# Dependencies first: they change less often than the program, and their layer is kept.
COPY requirements.txt requirements-build.txt ./
RUN /build/bin/pip install -q --no-cache-dir --require-hashes -r requirements-build.txt \
 && /build/bin/pip --python /opt/trackoffline/bin/python3 install -q --no-cache-dir --require-hashes -r requirements.txt
COPY . .
RUN /build/bin/pip wheel -q --no-deps --no-build-isolation -w /wheel . \
 && /build/bin/pip --python /opt/trackoffline/bin/python3 install -q --no-index --no-deps /wheel/*.whl

FROM ${PYTHON_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trackoffline" \
      org.opencontainers.image.description="Offline tracking for any Adobe Analytics client" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Loopback of the container would be reachable from the container alone.
ENV PATH=/opt/trackoffline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TRACKOFFLINE_LISTEN__ADDRESS=0.0.0.0:8277 \
    TRACKOFFLINE_QUEUE__PATH=/data/hits.db
COPY --from=build --chown=0:0 /opt/trackoffline /opt/trackoffline
RUN install -d -o 10001 -g 10001 -m 0700 /data
# By number: a cluster that demands non-root cannot tell by a name.
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8277
STOPSIGNAL SIGTERM
# Ready is "can store a hit"; a collection server that is away is no illness.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["trackoffline", "wait-ready", "--timeout", "3"]
ENTRYPOINT ["trackoffline"]
CMD ["serve"]
