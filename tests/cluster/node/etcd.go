package main

import (
	"errors"
	"flag"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd runs one member as its configuration file says. etcd's own main is not imported: it brings the whole of etcd's
// command line, its proxy and gateway too.
func etcd() int {
	flags := flag.NewFlagSet("etcd", flag.ExitOnError)
	path := flags.String("config-file", "etcd.yaml", "configuration to load")
	_ = flags.Parse(os.Args[1:])

	config, err := embed.ConfigFromFile(*path)
	if err != nil {
		return fail("etcd", err)
	}
	server, err := embed.StartEtcd(config)
	if err != nil {
		return fail("etcd", err)
	}
	defer server.Close()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-stop:
		return 0
	case err := <-server.Err():
		return fail("etcd", err)
	case <-server.Server.StopNotify():
		return fail("etcd", errors.New("stopped by itself"))
	}
}
