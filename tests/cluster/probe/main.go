// Package main is what the smoke check runs in its pods, from an image with nothing else in it.
//
//	probe serve ADDRESS   answers every request with the pod's name
//	probe get URL         prints the body; fails unless the answer is 200
//	probe resolve NAME    prints the addresses of a name, as the pod's resolv.conf finds them
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "probe: serve ADDRESS | get URL | resolve NAME")
		os.Exit(64)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(verb, argument string) error {
	switch verb {
	case "serve":
		return serve(argument)
	case "get":
		return get(argument)
	case "resolve":
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		addresses, err := net.DefaultResolver.LookupHost(ctx, argument)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			fmt.Println(address)
		}
		return nil
	default:
		return fmt.Errorf("no such verb: %s", verb)
	}
}

func serve(address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	server := &http.Server{
		Addr:              address,
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			name, _ := os.Hostname()
			fmt.Fprintln(w, name)
		}),
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// The certificate of the API server's authority, as every pod has it.
const authority = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"

func get(url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	if pem, err := os.ReadFile(authority); err == nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}
