# syntax=docker/dockerfile:1
# The two images, FROM scratch: `docker build --target operator .`, `--target sidecar`. amd64 and arm64 alike, each built natively or under
# emulation: `docker buildx build --platform linux/amd64,linux/arm64 …`. `make images` does it with whatever tool is there.
ARG RUST=1.95

FROM rust:${RUST}-alpine AS build
# cmake, perl and the headers are for librdkafka and OpenSSL, which are linked in; of curl, headers alone are needed.
RUN apk add --no-cache bash ca-certificates cmake coreutils curl-dev g++ linux-headers make musl-dev perl
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target scripts/dist
RUN mkdir -p /root-of/etc/ssl/certs \
  && cp /etc/ssl/certs/ca-certificates.crt /root-of/etc/ssl/certs/ \
  && echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' >/root-of/etc/passwd \
  && echo 'nonroot:x:65532:' >/root-of/etc/group \
  && install -d -m 1777 /root-of/tmp

FROM scratch AS base
ARG VERSION
LABEL org.opencontainers.image.version=$VERSION \
  org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /root-of /
# OpenSSL, linked in, looks elsewhere by itself.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
WORKDIR /

FROM base AS operator
LABEL org.opencontainers.image.title="idempotent-consumer operator"
COPY --from=build /src/dist/bin/operator /operator
ENTRYPOINT ["/operator"]

FROM base AS sidecar
LABEL org.opencontainers.image.title="idempotent-consumer sidecar"
COPY --from=build /src/dist/bin/sidecar /sidecar
ENTRYPOINT ["/sidecar"]
