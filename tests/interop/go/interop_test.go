// Package interop calls every method of the official Go SDK's client, unchanged, against a running server.
//
// The Python tests start the servers and pass their addresses in environment variables.
package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/minio/kms-go/kes"
)

func environment(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run this through pytest tests/interop", name)
	}
	return value
}

func config(t *testing.T, keyVariable string) *tls.Config {
	t.Helper()
	key, err := kes.ParseAPIKey(environment(t, keyVariable))
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := kes.GenerateCertificate(key)
	if err != nil {
		t.Fatal(err)
	}
	// The server's certificate is self-signed.
	return &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
}

func admin(t *testing.T) *kes.Client {
	return kes.NewClientWithConfig(environment(t, "KES_TEST_SERVER"), config(t, "KES_TEST_ADMIN"))
}

func user(t *testing.T) *kes.Client {
	return kes.NewClientWithConfig(environment(t, "KES_TEST_SERVER"), config(t, "KES_TEST_USER"))
}

func identity(t *testing.T, keyVariable string) kes.Identity {
	t.Helper()
	key, err := kes.ParseAPIKey(environment(t, keyVariable))
	if err != nil {
		t.Fatal(err)
	}
	return key.Identity()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err, expected error) {
	t.Helper()
	if !errors.Is(err, expected) {
		t.Fatalf("got error '%v', want '%v'", err, expected)
	}
}

func TestServer(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	version, err := client.Version(ctx)
	check(t, err)
	if version == "" {
		t.Fatal("no version")
	}
	ready, err := client.IsReady(ctx)
	check(t, err)
	if !ready {
		t.Fatal("not ready")
	}
	status, err := client.Status(ctx)
	check(t, err)
	if status.Version != version || !status.KeyStoreReachable || status.CPUs < 1 || status.HeapAlloc == 0 {
		t.Fatalf("status %+v", status)
	}
	if status.KeyStoreLatency <= 0 || status.KeyStoreLatency > 5*time.Second {
		t.Fatalf("key store latency %v", status.KeyStoreLatency)
	}
	apis, err := client.APIs(ctx)
	check(t, err)
	index := slices.IndexFunc(apis, func(api kes.API) bool { return api.Path == "/v1/key/generate/" })
	if index < 0 || apis[index].Method != "PUT" || apis[index].MaxBody != 1000000 || apis[index].Timeout != 15*time.Second {
		t.Fatalf("APIs %+v", apis)
	}
}

func TestKeys(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	check(t, client.CreateKey(ctx, "go-key"))
	want(t, client.CreateKey(ctx, "go-key"), kes.ErrKeyExists)
	info, err := client.DescribeKey(ctx, "go-key")
	check(t, err)
	if info.Name != "go-key" || info.CreatedBy != identity(t, "KES_TEST_ADMIN") || time.Since(info.CreatedAt).Abs() > time.Minute {
		t.Fatalf("key %+v", info)
	}
	binding := []byte("my-bucket/my-object")
	dek, err := client.GenerateKey(ctx, "go-key", binding)
	check(t, err)
	if len(dek.Plaintext) != 32 {
		t.Fatalf("a data key of %d bytes", len(dek.Plaintext))
	}
	plaintext, err := client.Decrypt(ctx, "go-key", dek.Ciphertext, binding)
	check(t, err)
	if !bytes.Equal(plaintext, dek.Plaintext) {
		t.Fatal("another data key came back")
	}
	_, err = client.Decrypt(ctx, "go-key", dek.Ciphertext, nil)
	want(t, err, kes.ErrDecrypt)
	dek.Ciphertext[0] ^= 1
	_, err = client.Decrypt(ctx, "go-key", dek.Ciphertext, binding)
	want(t, err, kes.ErrDecrypt)
	for _, message := range [][]byte{nil, []byte("text"), bytes.Repeat([]byte{7}, 500_000)} {
		sealed, err := client.Encrypt(ctx, "go-key", message, binding)
		check(t, err)
		opened, err := client.Decrypt(ctx, "go-key", sealed, binding)
		check(t, err)
		if !bytes.Equal(opened, message) {
			t.Fatal("another message came back")
		}
	}
	first, err := client.HMAC(ctx, "go-key", []byte("message"))
	check(t, err)
	second, err := client.HMAC(ctx, "go-key", []byte("message"))
	check(t, err)
	if len(first) != 32 || !bytes.Equal(first, second) {
		t.Fatal("the HMAC is not one")
	}
	check(t, client.DeleteKey(ctx, "go-key"))
	want(t, client.DeleteKey(ctx, "go-key"), kes.ErrKeyNotFound)
	_, err = client.DescribeKey(ctx, "go-key")
	want(t, err, kes.ErrKeyNotFound)
	_, err = client.GenerateKey(ctx, "go-key", nil)
	want(t, err, kes.ErrKeyNotFound)
	_, err = client.HMAC(ctx, "go-key", nil)
	want(t, err, kes.ErrKeyNotFound)
}

// rotate adds a version to a key. The SDK has no method for it.
func rotate(t *testing.T, name string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config(t, "KES_TEST_ADMIN")}}
	request, err := http.NewRequestWithContext(t.Context(), "PUT", environment(t, "KES_TEST_SERVER")+"/v1/key/rotate/"+name, nil)
	check(t, err)
	response, err := client.Do(request)
	check(t, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("rotate: %s", response.Status)
	}
}

// TestRotation encrypts before, between and after two rotations, as an object store does, and decrypts everything.
func TestRotation(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	const key = "go-rotated"
	check(t, client.CreateKey(ctx, key))
	code, err := client.HMAC(ctx, key, []byte("root credentials"))
	check(t, err)
	deks := map[string]kes.DEK{}
	for version := range 3 {
		for object := range 10 {
			place := fmt.Sprintf("bucket/object-%d-%d", version, object)
			deks[place], err = client.GenerateKey(ctx, key, []byte(place))
			check(t, err)
		}
		if version < 2 {
			rotate(t, key)
		}
	}
	open := func() {
		for place, dek := range deks {
			plaintext, err := client.Decrypt(ctx, key, dek.Ciphertext, []byte(place))
			check(t, err)
			if !bytes.Equal(plaintext, dek.Plaintext) {
				t.Fatalf("another data key came back for %s", place)
			}
		}
	}
	open()
	// A batch rotation: it decrypts each data key, and puts one of the newest version in its place.
	for place := range deks {
		deks[place], err = client.GenerateKey(ctx, key, []byte(place))
		check(t, err)
		sealed := deks[place].Ciphertext
		if hint := binary.BigEndian.Uint32(sealed[len(sealed)-28:]); hint != 3 {
			t.Fatalf("the data key of %s is under version %d", place, hint)
		}
	}
	open()
	again, err := client.HMAC(ctx, key, []byte("root credentials"))
	check(t, err)
	if !bytes.Equal(code, again) {
		t.Fatal("the HMAC changed with the version of the key")
	}
	names, _, err := client.ListKeys(ctx, key, -1)
	check(t, err)
	if !slices.Equal(names, []string{key}) {
		t.Fatalf("keys %v", names)
	}
	check(t, client.DeleteKey(ctx, key))
	_, err = client.DescribeKey(ctx, key)
	want(t, err, kes.ErrKeyNotFound)
}

func TestImport(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	for name, cipher := range map[string]kes.KeyAlgorithm{"go-aes": kes.AES256, "go-chacha": kes.ChaCha20} {
		request := &kes.ImportKeyRequest{Key: make([]byte, 32), Cipher: cipher}
		check(t, client.ImportKey(ctx, name, request))
		want(t, client.ImportKey(ctx, name, request), kes.ErrKeyExists)
		info, err := client.DescribeKey(ctx, name)
		check(t, err)
		if info.Algorithm != cipher {
			t.Fatalf("algorithm %v, want %v", info.Algorithm, cipher)
		}
		check(t, client.DeleteKey(ctx, name))
	}
	err := client.ImportKey(ctx, "go-short", &kes.ImportKeyRequest{Key: make([]byte, 31), Cipher: kes.AES256})
	var answer kes.Error
	if !errors.As(err, &answer) || answer.Status() != 406 {
		t.Fatalf("a short key: %v", err)
	}
}

func TestPoliciesAndIdentities(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	info, err := client.DescribePolicy(ctx, "go-user")
	check(t, err)
	if info.Name != "go-user" || info.CreatedBy != identity(t, "KES_TEST_ADMIN") {
		t.Fatalf("policy %+v", info)
	}
	policy, err := client.GetPolicy(ctx, "go-user")
	check(t, err)
	if _, ok := policy.Allow["/v1/key/*"]; !ok || len(policy.Allow) != 2 || len(policy.Deny) != 1 {
		t.Fatalf("policy %+v", policy)
	}
	_, err = client.DescribePolicy(ctx, "nothing")
	want(t, err, kes.ErrPolicyNotFound)
	_, err = client.GetPolicy(ctx, "nothing")
	want(t, err, kes.ErrPolicyNotFound)
	names, next, err := client.ListPolicies(ctx, "", -1)
	check(t, err)
	if !slices.Equal(names, []string{"empty", "go-user"}) || next != "" {
		t.Fatalf("policies %v, then %q", names, next)
	}
	known, err := client.DescribeIdentity(ctx, identity(t, "KES_TEST_USER"))
	check(t, err)
	if known.Policy != "go-user" || known.IsAdmin {
		t.Fatalf("identity %+v", known)
	}
	_, err = client.DescribeIdentity(ctx, "0000")
	want(t, err, kes.ErrIdentityNotFound)
	identities, _, err := client.ListIdentities(ctx, "", -1)
	check(t, err)
	expected := []kes.Identity{identity(t, "KES_TEST_ADMIN"), identity(t, "KES_TEST_USER")}
	slices.Sort(expected)
	if !slices.Equal(identities, expected) {
		t.Fatalf("identities %v", identities)
	}
	self, _, err := client.DescribeSelf(ctx)
	check(t, err)
	if !self.IsAdmin || self.Identity != identity(t, "KES_TEST_ADMIN") {
		t.Fatalf("self %+v", self)
	}
	self, policy, err = user(t).DescribeSelf(ctx)
	check(t, err)
	if self.IsAdmin || self.Policy != "go-user" || len(policy.Allow) != 2 || len(policy.Deny) != 1 {
		t.Fatalf("self %+v with %+v", self, policy)
	}
	want(t, user(t).DeleteKey(ctx, "go-anything"), kes.ErrNotAllowed)
	_, err = user(t).Status(ctx)
	check(t, err)
}

func TestPaging(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	for _, prefix := range []string{"page", "page-*", "page-0*"} {
		expected := 3000
		if prefix == "page-0*" {
			expected = 1000
		}
		list := kes.ListIter[string]{NextFunc: client.ListKeys}
		var names []string
		name, err := list.SeekTo(ctx, prefix)
		for ; err == nil; name, err = list.Next(ctx) {
			names = append(names, name)
		}
		if err != io.EOF {
			t.Fatal(err)
		}
		if len(names) != expected || !slices.IsSorted(names) || len(slices.Compact(names)) != expected {
			t.Fatalf("%d names for %q", len(names), prefix)
		}
	}
}

func TestLogStreams(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := admin(t)
	audit, err := client.AuditLog(ctx)
	check(t, err)
	defer audit.Close()
	failures, err := client.ErrorLog(ctx)
	check(t, err)
	defer failures.Close()
	want(t, user(t).DeleteKey(ctx, "go-refused"), kes.ErrNotAllowed)
	for audit.Next() {
		event := audit.Event()
		if event.APIPath != "/v1/key/delete/go-refused" {
			continue
		}
		if event.StatusCode != 403 || event.ClientIdentity != identity(t, "KES_TEST_USER") {
			t.Fatalf("event %+v", event)
		}
		if !event.ClientIP.Equal(net.IPv4(127, 0, 0, 1)) || event.ResponseTime <= 0 || event.ResponseTime > time.Second {
			t.Fatalf("event %+v", event)
		}
		if time.Since(event.Timestamp).Abs() > time.Minute {
			t.Fatalf("event %+v", event)
		}
		break
	}
	if !failures.Next() || failures.Message() == "" {
		t.Fatal("no error event")
	}
}

func TestMetrics(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	before, err := client.Metrics(ctx)
	check(t, err)
	check(t, client.CreateKey(ctx, "go-metrics"))
	want(t, client.CreateKey(ctx, "go-metrics"), kes.ErrKeyExists)
	// The server counts operations and decisions separately, with labels that the SDK can't parse.
	want(t, user(t).DeleteKey(ctx, "go-metrics"), kes.ErrNotAllowed)
	after, err := client.Metrics(ctx)
	check(t, err)
	if after.RequestOK != before.RequestOK+1 || after.RequestErr != before.RequestErr+1 {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	if after.RequestN() != before.RequestN()+2 || len(after.LatencyHistogram) != 10 {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	if after.CPUs < 1 || after.UsableCPUs < 1 || after.Threads < 1 || after.HeapAlloc == 0 || after.StackAlloc == 0 {
		t.Fatalf("metrics %+v", after)
	}
}

func TestManyAtOnce(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	check(t, client.CreateKey(ctx, "go-busy"))
	failed := make(chan error, 64)
	var group sync.WaitGroup
	for range 64 {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 50 {
				dek, err := client.GenerateKey(ctx, "go-busy", nil)
				if err != nil {
					failed <- err
					return
				}
				plaintext, err := client.Decrypt(ctx, "go-busy", dek.Ciphertext, nil)
				if err != nil || !bytes.Equal(plaintext, dek.Plaintext) {
					failed <- fmt.Errorf("another data key came back: %w", err)
					return
				}
			}
		}()
	}
	group.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
}

func TestEndpointsWithOneDead(t *testing.T) {
	ctx, client := t.Context(), admin(t)
	client.Endpoints = []string{environment(t, "KES_TEST_DEAD"), environment(t, "KES_TEST_SERVER")}
	for number := range 20 {
		name := fmt.Sprintf("go-endpoint-%d", number)
		if err := client.CreateKey(ctx, name); err != nil && !errors.Is(err, kes.ErrKeyExists) {
			t.Fatal(err)
		}
		_, err := client.GenerateKey(ctx, name, nil)
		check(t, err)
	}
}

func TestDeadServer(t *testing.T) {
	client := kes.NewClientWithConfig(environment(t, "KES_TEST_DEAD"), config(t, "KES_TEST_ADMIN"))
	_, err := client.Version(t.Context())
	if _, ok := kes.IsConnError(err); !ok {
		t.Fatalf("got error '%v', want one of the connection", err)
	}
}

func TestCancellation(t *testing.T) {
	client := admin(t)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client.AuditLog(ctx)
	check(t, err)
	cancel()
	if stream.Next() {
		// Events that were already sent may still arrive, but no later ones.
		for stream.Next() {
		}
	}
	_, err = client.Version(ctx)
	want(t, err, context.Canceled)
	_, err = client.Version(t.Context())
	check(t, err)
}

func TestStoreDown(t *testing.T) {
	ctx := t.Context()
	client := kes.NewClientWithConfig(environment(t, "KES_TEST_DOWN"), config(t, "KES_TEST_ADMIN"))
	ready, err := client.IsReady(ctx)
	if ready || err == nil {
		t.Fatal("ready without a key store")
	}
	status, err := client.Status(ctx)
	check(t, err)
	if status.KeyStoreReachable {
		t.Fatalf("status %+v", status)
	}
	var answer kes.Error
	if err = client.CreateKey(ctx, "go-down"); !errors.As(err, &answer) || answer.Status() != 502 {
		t.Fatalf("create: %v", err)
	}
	if _, _, err = client.ListKeys(ctx, "", -1); !errors.As(err, &answer) || answer.Status() != 502 {
		t.Fatalf("list: %v", err)
	}
}

// The requests of an object store at its start and while it runs, in the same order and with the same concurrency: it
// asks for the status and the APIs, and makes sure that the default key exists and works. Then it generates a data key
// for every object that it writes and decrypts one for every object that it reads, with the object's path as the
// context. Meanwhile, a health check asks for the status again and again.
func TestObjectStore(t *testing.T) {
	ctx, client := t.Context(), user(t)
	const key = "go-default-key"
	status, err := client.Status(ctx)
	check(t, err)
	if !status.KeyStoreReachable {
		t.Fatalf("status %+v", status)
	}
	// Several nodes start at once, and all try to create the key.
	var nodes sync.WaitGroup
	failed := make(chan error, 4+1+32)
	for range 4 {
		nodes.Add(1)
		go func() {
			defer nodes.Done()
			if err := user(t).CreateKey(ctx, key); err != nil && !errors.Is(err, kes.ErrKeyExists) {
				failed <- err
			}
		}()
	}
	nodes.Wait()
	probe, err := client.GenerateKey(ctx, key, []byte("probe"))
	check(t, err)
	plaintext, err := client.Decrypt(ctx, key, probe.Ciphertext, []byte("probe"))
	check(t, err)
	if !bytes.Equal(plaintext, probe.Plaintext) {
		t.Fatal("another data key came back")
	}
	names, _, err := client.ListKeys(ctx, key, -1)
	check(t, err)
	if !slices.Equal(names, []string{key}) {
		t.Fatalf("keys %v", names)
	}

	done := make(chan struct{})
	var health, writers sync.WaitGroup
	health.Add(1)
	go func() {
		defer health.Done()
		for {
			select {
			case <-done:
				return
			default:
				if _, err := client.Status(ctx); err != nil {
					failed <- err
					return
				}
			}
		}
	}()
	for writer := range 32 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for object := range 30 {
				place := []byte(fmt.Sprintf(`{"bucket":"bucket/object-%d-%d"}`, writer, object))
				dek, err := client.GenerateKey(ctx, key, place)
				if err != nil {
					failed <- err
					return
				}
				for range 2 {
					opened, err := client.Decrypt(ctx, key, dek.Ciphertext, place)
					if err != nil || !bytes.Equal(opened, dek.Plaintext) {
						failed <- fmt.Errorf("object %s: %w", place, err)
						return
					}
				}
			}
		}()
	}
	writers.Wait()
	close(done)
	health.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
}
