// Command load repeats a request and prints rate, latencies and the server's CPU time as JSON.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/http2"
)

var (
	url           = flag.String("url", "", "the URL of the requests")
	method        = flag.String("method", "PUT", "their method")
	body          = flag.String("body", "", "their body; @FILE: what the file holds")
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
	hold          = flag.Bool("hold", false, "open a connection for each parallel request, send one request on each, print {}, and keep them open until standard input ends")
)

// client is a transport without what http.Client adds to each request: the less time the load generator needs, the more
// requests a fast server gets.
type client interface {
	http.RoundTripper
	CloseIdleConnections()
}

func newClient(certificate tls.Certificate) client {
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true}
	if *useHTTP2 {
		config.NextProtos = []string{"h2"}
		return &http2.Transport{TLSClientConfig: config}
	}
	return &http.Transport{TLSClientConfig: config, DisableKeepAlives: *newConnection}
}

var (
	sent   atomic.Int64
	target *neturl.URL
	fields = http.Header{}
)

// prepare makes what all requests have in common.
func prepare() (err error) {
	if text, isFile := strings.CutPrefix(*body, "@"); isFile {
		content, err := os.ReadFile(text)
		if err != nil {
			return err
		}
		*body = string(content)
	}
	if name, value, ok := strings.Cut(*header, "="); ok {
		fields.Set(name, value)
	}
	target, err = neturl.Parse(*url)
	return err
}

func send(client http.RoundTripper) error {
	place := target
	if *keys > 1 {
		one := *target
		one.Path = strings.Replace(one.Path, "{n}", strconv.FormatInt(sent.Add(1)%*keys, 10), 1)
		place = &one
	}
	content := io.NopCloser(strings.NewReader(*body))
	request := &http.Request{Method: *method, URL: place, Header: fields, Body: content, ContentLength: int64(len(*body))}
	response, err := client.RoundTrip(request)
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

// cpuTimes returns the CPU time, user and system, that each of the server's processes has used so far, in seconds.
func cpuTimes() []float64 {
	var times []float64
	for _, text := range strings.Split(*pids, ",") {
		pid, err := strconv.Atoi(text)
		if err != nil {
			continue
		}
		var now syscall.Timespec
		clock := uintptr(^pid<<3 | 2) // CPUCLOCK_SCHED of the process, as clock_getcpuclockid(3) makes it; exact, unlike /proc
		syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&now)), 0)
		times = append(times, time.Duration(now.Nano()).Seconds())
	}
	return times
}

// ownTime returns the CPU time, user and system, of this process in seconds.
func ownTime() float64 {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

// holdOpen opens the connections, at most 16 at the same time, and keeps them.
func holdOpen(certificate tls.Certificate) {
	var group sync.WaitGroup
	turns := make(chan struct{}, 16)
	for range *atOnce {
		turns <- struct{}{}
		group.Go(func() {
			if err := send(newClient(certificate)); err != nil {
				fail(err)
			}
			<-turns
		})
	}
	group.Wait()
	fmt.Println("{}")
	io.Copy(io.Discard, os.Stdin)
}

// sendPlanned starts a request at each planned time. It has a thread and a processor of its own: timers of Go are late
// by up to a millisecond, which is more than an answer takes.
func sendPlanned(begin time.Time, start func(planned time.Time)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_SET_TIMERSLACK, 1, 0)
	for number := 0; ; number++ {
		planned := begin.Add(time.Duration(float64(number) / *rate * float64(time.Second)))
		if planned.Sub(begin) >= *duration {
			return
		}
		if wait := time.Until(planned); wait > 0 {
			pause := syscall.NsecToTimespec(wait.Nanoseconds())
			syscall.Nanosleep(&pause, nil)
		}
		start(planned)
	}
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
	if err := prepare(); err != nil {
		fail(err)
	}
	if *hold {
		holdOpen(certificate)
		return
	}
	if *rate > 0 {
		runtime.GOMAXPROCS(4) // one waits in sendPlanned
	}
	debug.SetGCPercent(800) // its pauses are no latency of the server
	// A request takes a client and returns it after the answer. Each client has one HTTP/1.1 connection.
	clients := make(chan client, *atOnce)
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
	own := ownTime()
	begin, before := time.Now(), cpuTimes()
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
		sendPlanned(begin, func(planned time.Time) { group.Go(func() { measured(planned) }) })
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
	elapsed := time.Since(begin)
	var cpu, busiest float64
	for number, after := range cpuTimes() {
		cpu += after - before[number]
		busiest = max(busiest, after-before[number])
	}
	slices.Sort(all)
	json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"rate":     float64(len(all)) / elapsed.Seconds(),
		"cpu":      cpu / float64(len(all)),
		"busiest":  busiest / float64(len(all)),
		"p50":      all[len(all)/2].Seconds(),
		"p99":      all[len(all)*99/100].Seconds(),
		"p999":     all[len(all)*999/1000].Seconds(),
		"failures": float64(failures.Load()),
		"load":     (ownTime() - own) / elapsed.Seconds(),
	})
}
