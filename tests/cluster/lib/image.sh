# shellcheck shell=bash
# How an image is written and brought into the node, whatever is in it. Sourced, not run.

# As containerd and the kubelet write the name in full.
full_name() {
  case $1 in
    localhost/* | [!/]*[.:]*/*) echo "$1" ;;
    */*) echo "docker.io/$1" ;;
    *) echo "docker.io/library/$1" ;;
  esac
}

# Everything that depends on the day or the machine is left out: times, owners, the order of a folder.
plain_tar() { tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar "$@"; }

# blob FILE: moves it to where its digest says; prints `"digest": …, "size": …`.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat --format=%s "$1")
  mv "$1" "$layout/blobs/sha256/$digest"
  echo "\"digest\":\"sha256:$digest\",\"size\":$size"
}

# digest_of DESCRIPTOR
digest_of() { grep --only-matching 'sha256:[0-9a-f]*' <<<"$1"; }

# An OCI layout that is a docker-archive too: the one has the digest that the node will show, the other is what `docker load` of
# any age takes.
#
# write_archive NAME FULL-NAME ROOT.tar CONFIG: the last is the image's configuration as JSON. Leaves $archive and its $digest.
write_archive() {
  local layer config manifest oci=application/vnd.oci.image work=$layout/work
  mkdir -p "$layout/blobs/sha256"
  layer=$(blob "$3")
  printf '{"architecture":"%s","os":"linux","config":%s,%s}' "$(dpkg --print-architecture)" "$4" \
    "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"$(digest_of "$layer")\"]}" >"$work"
  config=$(blob "$work")
  printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s",%s},"layers":[{"mediaType":"%s",%s}]}' \
    "$oci.manifest.v1+json" "$oci.config.v1+json" "$config" "$oci.layer.v1.tar" "$layer" >"$work"
  manifest=$(blob "$work")
  digest=$(digest_of "$manifest")

  echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s",%s,"annotations":{"%s":"%s","%s":"%s"}}]}' \
    "$oci.manifest.v1+json" "$manifest" io.containerd.image.name "$2" org.opencontainers.image.ref.name "${2##*:}" \
    >"$layout/index.json"
  printf '[{"Config":"%s","RepoTags":["%s"],"Layers":["%s"]}]' \
    "$(blob_path "$config")" "$2" "$(blob_path "$layer")" >"$layout/manifest.json"

  mkdir -p "$cache/images"
  archive=$cache/images/${1//[\/:]/-}.tar
  plain_tar --directory="$layout" oci-layout index.json manifest.json blobs >"$archive.$$"
  mv "$archive.$$" "$archive"
}
blob_path() { digest_of "$1" | sed 's|:|/|; s|^|blobs/|'; }

node_has_image() { ctr images list name=="$full" | grep " $digest " >/dev/null; }
# The kubelet sees an image only when containerd's CRI plugin has heard of it, a moment after the import.
kubelet_sees_image() { ctr images list name=="$full" | grep " $digest " | grep io.cri-containerd.image=managed >/dev/null; }

# A folder to work in, which goes when the script ends.
begin_image() {
  temporary=$(mktemp --directory)
  trap 'rm -rf "$temporary"' EXIT
  layout=$temporary/layout
  mkdir "$layout"
}

# make_image NAME:TAG ROOT.tar CONFIG: writes the archive, and imports it where the node has it not yet.
make_image() {
  full=$(full_name "$1")
  write_archive "$1" "$full" "$2" "$3"
  alive containerd || die "$archive is made; no node named '$CLUSTER' runs that could take it"
  node_has_image || ctr images import "$archive" >/dev/null
  wait_for 10 containerd "the kubelet sees $1" kubelet_sees_image
  echo "$full $digest"
}

# Prints the script's head where its arguments are wrong.
usage() {
  sed -n '2,/^set/{/^# \?/s///p}' "$0" >&2
  exit 64
}
