// Command load repeats a request, with a number of requests in parallel, and prints rate and latencies as JSON.
package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

func main() {
	url := flag.String("url", "", "the URL of the requests")
	method := flag.String("method", "PUT", "their method")
	body := flag.String("body", "", "their body")
	header := flag.String("header", "", "one more header, as name=value")
	key := flag.String("key", "", "the client's private key")
	cert := flag.String("cert", "", "the client's certificate")
	useHTTP2 := flag.Bool("http2", false, "use HTTP/2 on one connection, instead of HTTP/1.1 on one connection for each parallel request")
	atOnce := flag.Int("at-once", 1, "the number of parallel requests")
	duration := flag.Duration("duration", time.Second, "how long to send requests")
	flag.Parse()

	certificate, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true}
	var transport http.RoundTripper = &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: *atOnce}
	if *useHTTP2 {
		config.NextProtos = []string{"h2"}
		transport = &http2.Transport{TLSClientConfig: config}
	}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	send := func() error {
		request, err := http.NewRequest(*method, *url, bytes.NewReader([]byte(*body)))
		if err != nil {
			return err
		}
		if name, value, ok := strings.Cut(*header, "="); ok {
			request.Header.Set(name, value)
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%d %s", response.StatusCode, text)
		}
		return nil
	}
	for range *atOnce { // open connections and fill caches before measuring
		if err := send(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}

	var (
		group    sync.WaitGroup
		lock     sync.Mutex
		all      []time.Duration
		failures atomic.Int64
	)
	start := time.Now()
	for range *atOnce {
		group.Add(1)
		go func() {
			defer group.Done()
			var times []time.Duration
			for time.Since(start) < *duration {
				begin := time.Now()
				if err := send(); err != nil {
					failures.Add(1)
				}
				times = append(times, time.Since(begin))
			}
			lock.Lock()
			all = append(all, times...)
			lock.Unlock()
		}()
	}
	group.Wait()
	elapsed := time.Since(start)
	slices.Sort(all)
	json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"rate":     float64(len(all)) / elapsed.Seconds(),
		"p50":      all[len(all)/2].Seconds(),
		"p99":      all[len(all)*99/100].Seconds(),
		"failures": float64(failures.Load()),
	})
}
