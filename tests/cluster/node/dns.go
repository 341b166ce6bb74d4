package main

import (
	"flag"
	"os"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// dns runs CoreDNS with the plugins that the Corefile names. CoreDNS's own main is not imported: it defines flags such as
// `version` and `p` for the whole process, which the Kubernetes programs then list as theirs.
func dns() int {
	flags := flag.NewFlagSet("coredns", flag.ExitOnError)
	path := flags.String("conf", "Corefile", "configuration to load")
	_ = flags.Parse(os.Args[1:])

	contents, err := os.ReadFile(*path)
	if err != nil {
		return fail("coredns", err)
	}
	// The order in which they see a question. In CoreDNS's own list the template, which answers everything, comes before Kubernetes.
	dnsserver.Directives = []string{"ready", "bind", "errors", "kubernetes", "template"}
	if err := dnsserver.Register(); err != nil {
		return fail("coredns", err)
	}
	caddy.TrapSignals()
	server, err := caddy.Start(caddy.CaddyfileInput{Contents: contents, Filepath: *path, ServerTypeName: "dns"})
	if err != nil {
		return fail("coredns", err)
	}
	server.Wait()
	return 0
}
