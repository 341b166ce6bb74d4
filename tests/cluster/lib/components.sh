# shellcheck shell=bash
# One function for each program of the node: how it is started, and how one sees that it works. Sourced, not run.

# In the order in which they are stopped: what would start anything new goes first.
components=(kubelet kube-proxy coredns kube-scheduler kube-controller-manager kube-apiserver etcd containerd)

# As the node sees them.
pki=$home/pki
etc=$home/etc

# Every node has the same address, so what kubectl keeps of one, in the home folder, would be taken for the next.
kubectl() { in_node env KUBECACHEDIR="$home/kubectl" "$bin/kubectl" --kubeconfig "$etc/admin.kubeconfig" "$@"; }

ctr() { in_node ctr --address /run/containerd/containerd.sock --namespace k8s.io "$@"; }

# http_ok PORT PATH: one plain request, without a need for curl.
http_ok() {
  # shellcheck disable=SC2016 # for the inner shell
  in_node bash -c 'exec 3<>"/dev/tcp/$1/$2" && printf "GET %s HTTP/1.0\r\n\r\n" "$3" >&3 && grep --quiet " 200 " <&3' \
    http_ok "$address" "$1" "$2"
}

start_containerd() { start containerd containerd --config "$etc/containerd.toml"; }
containerd_works() { ctr version; }

start_etcd() { start etcd "$bin/etcd" --config-file "$etc/etcd.yaml"; }

start_apiserver() {
  local flags=(
    --etcd-servers=http://127.0.0.1:2379
    --bind-address="$address" --advertise-address="$address" --secure-port=6443
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key"
    --client-ca-file="$pki/ca.crt"
    --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP
    --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" --kubelet-client-key="$pki/apiserver-kubelet-client.key"
    --service-account-issuer=https://kubernetes.default.svc.cluster.local
    --service-account-key-file="$pki/service-account.pub" --service-account-signing-key-file="$pki/service-account.key"
    --service-cluster-ip-range=10.96.0.0/16
    "--authorization-mode=Node,RBAC" --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement --allow-privileged=true
    # Written before the answer is sent, and to one file: a test may count right after its request.
    --audit-policy-file="$etc/audit-policy.yaml" --audit-log-path="$home/log/audit.log"
    --audit-log-mode=blocking --audit-log-maxsize=100000
    --profiling=false
  )
  start kube-apiserver "$bin/kube-apiserver" "${flags[@]}"
}
apiserver_works() { kubectl get --raw=/readyz; }

start_controller_manager() {
  local flags=(
    --kubeconfig="$etc/kube-controller-manager.kubeconfig" --use-service-account-credentials=true
    --leader-elect=false --secure-port=0 --allocate-node-cidrs=false
    --root-ca-file="$pki/ca.crt" --service-account-private-key-file="$pki/service-account.key"
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
    # Its default is a folder of the machine, which it makes.
    --flex-volume-plugin-dir="$home/volume-plugins"
    # A test that makes a thousand objects at once shall wait for what it tests, not for this.
    --kube-api-qps=200 --kube-api-burst=400
    --profiling=false
  )
  start kube-controller-manager "$bin/kube-controller-manager" "${flags[@]}"
}
# It has made what a pod needs in a namespace.
controller_manager_works() {
  kubectl --namespace default get serviceaccount/default configmap/kube-root-ca.crt
}

start_scheduler() {
  start kube-scheduler "$bin/kube-scheduler" --kubeconfig="$etc/kube-scheduler.kubeconfig" --leader-elect=false \
    --secure-port=0 --profiling=false
}

start_kubelet() {
  start kubelet "$bin/kubelet" --config="$etc/kubelet.yaml" --kubeconfig="$etc/kubelet.kubeconfig" \
    --hostname-override=node --node-ip="$address" --cgroup-root="/$(cgroup_name)"
}
kubelet_works() { kubectl wait --for=condition=Ready --timeout=0 node/node; }

start_proxy() { start kube-proxy "$bin/kube-proxy" --config="$etc/kube-proxy.yaml"; }
proxy_works() { http_ok 10256 /healthz; }

start_coredns() { start coredns "$bin/coredns" -conf "$etc/Corefile"; }
coredns_works() { http_ok 8181 /ready; }
