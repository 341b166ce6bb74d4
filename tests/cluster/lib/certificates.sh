# shellcheck shell=bash
# Certificates and kubeconfigs of one node, made anew for each: none of them is worth keeping. Sourced, not run.

certificates_make() {
  local pki=$state/pki
  mkdir -p "$pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 -config "$here/etc/openssl.cnf" \
    -subj "/CN=$CLUSTER" -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$pki/service-account.key" 2>/dev/null
  openssl pkey -in "$pki/service-account.key" -pubout -out "$pki/service-account.pub"

  local names="IP:$address,IP:10.96.0.1,IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default"
  names+=",DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  certificate apiserver /CN=kube-apiserver serverAuth "$names"
  certificate kubelet-server /CN=node serverAuth "IP:$address,DNS:node"
  certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver clientAuth

  kubeconfig admin /O=system:masters/CN=admin
  kubeconfig kube-controller-manager /CN=system:kube-controller-manager
  kubeconfig kube-scheduler /CN=system:kube-scheduler
  kubeconfig kube-proxy /CN=system:kube-proxy
  kubeconfig coredns /CN=system:coredns
  kubeconfig kubelet /O=system:nodes/CN=system:node:node
}

# certificate NAME SUBJECT USAGE [NAMES]: the extensions are all given here, none by the machine's own openssl.cnf.
certificate() {
  local pki=$state/pki
  openssl req -x509 -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -days 365 -config "$here/etc/openssl.cnf" \
    -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout "$pki/$1.key" -out "$pki/$1.crt" -subj "$2" \
    -addext basicConstraints=critical,CA:false -addext "extendedKeyUsage=$3" ${4:+-addext "subjectAltName=$4"} 2>/dev/null
}

# kubeconfig NAME SUBJECT: with everything in it, so that it can be copied to anywhere.
kubeconfig() {
  local pki=$state/pki
  certificate "$1" "$2" clientAuth
  (
    umask 077
    cat >"$state/etc/$1.kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: $CLUSTER
clusters:
- name: $CLUSTER
  cluster:
    server: https://$address:6443
    certificate-authority-data: $(base64 --wrap=0 "$pki/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 --wrap=0 "$pki/$1.crt")
    client-key-data: $(base64 --wrap=0 "$pki/$1.key")
contexts:
- name: $CLUSTER
  context: {cluster: $CLUSTER, user: $1}
END
  )
}
