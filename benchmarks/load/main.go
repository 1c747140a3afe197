// Command load repeats a request and prints rate, latencies and the server's CPU time as JSON.
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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

const clockTick = 100 // per second: the unit of CPU times in /proc on Linux

var (
	url           = flag.String("url", "", "the URL of the requests")
	method        = flag.String("method", "PUT", "their method")
	body          = flag.String("body", "", "their body")
	header        = flag.String("header", "", "one more header, as name=value")
	key           = flag.String("key", "", "the client's private key")
	cert          = flag.String("cert", "", "the client's certificate")
	useHTTP2      = flag.Bool("http2", false, "use HTTP/2 on one connection, instead of HTTP/1.1 on one connection for each parallel request")
	atOnce        = flag.Int("at-once", 1, "the number of parallel requests")
	newConnection = flag.Bool("new-connection", false, "open a connection for each request")
	rate          = flag.Float64("rate", 0, "send this many requests per second, however slow the answers are, and measure latency from the planned time; 0: send the next request after each answer")
	duration      = flag.Duration("duration", time.Second, "how long to send requests")
	count         = flag.Int64("count", 0, "how many requests to send, instead of for a time")
	keys          = flag.Int64("keys", 1, "the number of keys that take turns: {n} in the URL is the number of the key")
	pids          = flag.String("pids", "", "the server's processes, separated by commas: measure their CPU time")
)

func newClient(certificate tls.Certificate) *http.Client {
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true}
	var transport http.RoundTripper = &http.Transport{TLSClientConfig: config, DisableKeepAlives: *newConnection}
	if *useHTTP2 {
		config.NextProtos = []string{"h2"}
		transport = &http2.Transport{TLSClientConfig: config}
	}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

var sent atomic.Int64

func send(client *http.Client) error {
	number := strconv.FormatInt(sent.Add(1)%*keys, 10)
	request, err := http.NewRequest(*method, strings.Replace(*url, "{n}", number, 1), bytes.NewReader([]byte(*body)))
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

// cpuTime returns the CPU time, user and system, that the server has used so far, in seconds.
func cpuTime() float64 {
	ticks := 0
	for _, pid := range strings.Split(*pids, ",") {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(after)
		for _, text := range fields[11:13] {
			number, _ := strconv.Atoi(text)
			ticks += number
		}
	}
	return float64(ticks) / clockTick
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func main() {
	flag.Parse()
	certificate, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		fail(err)
	}
	// A request takes a client and returns it after the answer. Each client has one HTTP/1.1 connection.
	clients := make(chan *http.Client, *atOnce)
	shared := newClient(certificate)
	for range *atOnce {
		if *useHTTP2 && !*newConnection {
			clients <- shared
		} else {
			clients <- newClient(certificate)
		}
	}
	var group sync.WaitGroup
	if *useHTTP2 { // so that the requests below share its connection
		if err := send(shared); err != nil {
			fail(err)
		}
	}
	for range *atOnce { // open all connections and fill caches before measuring
		client := <-clients
		group.Go(func() {
			if err := send(client); err != nil {
				fail(err)
			}
			clients <- client
		})
	}
	group.Wait()

	var (
		lock     sync.Mutex
		all      []time.Duration
		failures atomic.Int64
	)
	measured := func(begin time.Time) {
		client := <-clients
		if *newConnection {
			client = newClient(certificate)
		}
		if err := send(client); err != nil {
			failures.Add(1)
		}
		taken := time.Since(begin)
		if *newConnection {
			client.CloseIdleConnections()
		}
		clients <- client
		lock.Lock()
		all = append(all, taken)
		lock.Unlock()
	}
	begin, cpu := time.Now(), cpuTime()
	if *count > 0 {
		var taken atomic.Int64
		for range *atOnce {
			group.Go(func() {
				for taken.Add(1) <= *count {
					measured(time.Now())
				}
			})
		}
	} else if *rate > 0 {
		for number := 0; ; number++ {
			planned := begin.Add(time.Duration(float64(number) / *rate * float64(time.Second)))
			if planned.Sub(begin) >= *duration {
				break
			}
			time.Sleep(time.Until(planned))
			group.Go(func() { measured(planned) })
		}
	} else {
		for range *atOnce {
			group.Go(func() {
				for time.Since(begin) < *duration {
					measured(time.Now())
				}
			})
		}
	}
	group.Wait()
	elapsed, cpu := time.Since(begin), cpuTime()-cpu
	slices.Sort(all)
	json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"rate":     float64(len(all)) / elapsed.Seconds(),
		"cpu":      cpu / float64(len(all)),
		"p50":      all[len(all)/2].Seconds(),
		"p99":      all[len(all)*99/100].Seconds(),
		"p999":     all[len(all)*999/1000].Seconds(),
		"failures": float64(failures.Load()),
	})
}
