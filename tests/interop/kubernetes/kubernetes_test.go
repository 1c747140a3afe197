// Package interop lets the code of Kubernetes' own API server use the plugin: the client of KMS v2 with its checks of
// answers, its cache and its health checks, unchanged, from the file that configures encryption in a cluster.
//
// The Python tests start the server. They carry out what this package asks of them over a socket: see do.
package interop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"
	kmstypes "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	kmsservice "k8s.io/kms/pkg/service"
)

// The name of the provider in the configuration.
const provider = "kes"

// How long the API server may take to see a change: it asks 20 seconds after an answer that said "ok".
const patience = 90 * time.Second

var secrets = schema.GroupResource{Resource: "secrets"}

func environment(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run this through pytest tests/interop", name)
	}
	return value
}

// do lets the Python test carry out an action, such as the rotation of the key; it returns what that answers.
func do(t *testing.T, action string) string {
	t.Helper()
	connection, err := net.Dial("unix", environment(t, "KES_TEST_CONTROL"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprintln(connection, action)
	answer, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil || !strings.HasPrefix(answer, "ok") {
		t.Fatalf("%s: %q, %v", action, answer, err)
	}
	return strings.TrimSpace(strings.TrimPrefix(answer, "ok"))
}

// apiServer is the part of an API server that encrypts what goes into etcd.
type apiServer struct {
	*testing.T
	value.Transformer
	health func(*http.Request) error
}

// startAPIServer reads the configuration, as an API server does when it starts.
func startAPIServer(t *testing.T) apiServer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, environment(t, "KES_TEST_ENCRYPTION"), true, "test")
	if err != nil {
		t.Fatal(err)
	}
	if len(config.HealthChecks) != 1 {
		t.Fatalf("%d health checks", len(config.HealthChecks))
	}
	return apiServer{t, config.Transformers[secrets], config.HealthChecks[0].Check}
}

func (server apiServer) healthy() error {
	return server.health(httptest.NewRequest("GET", "/healthz/kms-providers", nil))
}

// await waits until a condition holds. It asks for the health all the time, as a load balancer would.
func (server apiServer) await(what string, condition func(health error) bool) {
	server.Helper()
	var health error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if health = server.healthy(); condition(health) {
			return
		}
	}
	server.Fatalf("never %s; health: %v", what, health)
}

func (server apiServer) awaitHealth() {
	server.Helper()
	server.await("healthy", func(health error) bool { return health == nil })
}

func (server apiServer) write(name string, data []byte) ([]byte, error) {
	return server.TransformToStorage(context.Background(), data, value.DefaultContext(name))
}

func (server apiServer) mustWrite(name string, data []byte) []byte {
	server.Helper()
	stored, err := server.write(name, data)
	if err != nil {
		server.Fatal(err)
	}
	return stored
}

// mustRead decrypts an object and returns whether it is stale: encrypted under another version than the present one.
func (server apiServer) mustRead(name string, stored, want []byte) bool {
	server.Helper()
	data, stale, err := server.TransformFromStorage(context.Background(), stored, value.DefaultContext(name))
	if err != nil {
		server.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		server.Fatalf("%s is %q, not %q", name, data, want)
	}
	return stale
}

// object returns what the API server stores: the encrypted data with the key_id and the encrypted key.
func object(t *testing.T, stored []byte) *kmstypes.EncryptedObject {
	t.Helper()
	encoded, found := bytes.CutPrefix(stored, []byte("k8s:enc:kms:v2:"+provider+":"))
	if !found {
		t.Fatalf("not encrypted by the plugin: %q", stored)
	}
	parsed := &kmstypes.EncryptedObject{}
	if err := proto.Unmarshal(encoded, parsed); err != nil {
		t.Fatal(err)
	}
	return parsed
}

// calls returns how many calls the plugin has had.
func calls(t *testing.T) int {
	t.Helper()
	count, err := strconv.Atoi(do(t, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// clock is the time by which an API server stops writing without a plugin. A test may move it ahead.
type clock struct{ ahead atomic.Int64 }

func newClock(t *testing.T) *clock {
	t.Helper()
	clock := &clock{}
	t.Cleanup(kmsv2.SetNowFuncForTests(provider, func() time.Time {
		return time.Now().Add(time.Duration(clock.ahead.Load()))
	}))
	return clock
}

func (c *clock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// newService returns the client for the plugin that an API server uses, without its cache.
func newService(t *testing.T) kmsservice.Service {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	service, err := kmsv2.NewGRPCService(ctx, environment(t, "KES_TEST_ENDPOINT"), provider, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return service
}

func TestAnswersKeepTheLimitsOfKubernetes(t *testing.T) {
	service := newService(t)
	status, err := service.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if status.Version != kmsv2.KMSAPIVersionv2 || status.Healthz != "ok" {
		t.Fatalf("%+v", status)
	}
	if _, err := kmsv2.ValidateKeyID(status.KeyID); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 32, 512} {
		plaintext := bytes.Repeat([]byte{7}, size)
		sealed, err := service.Encrypt(context.Background(), "some-uid", plaintext)
		if err != nil {
			t.Fatal(err)
		}
		if sealed.KeyID != status.KeyID {
			t.Fatalf("Encrypt names %q, Status %q", sealed.KeyID, status.KeyID)
		}
		stored := &kmstypes.EncryptedObject{
			EncryptedData:      []byte{0},
			KeyID:              sealed.KeyID,
			EncryptedDEKSource: sealed.Ciphertext,
			Annotations:        sealed.Annotations,
		}
		if err := kmsv2.ValidateEncryptedObject(stored); err != nil {
			t.Fatal(err)
		}
		opened, err := service.Decrypt(context.Background(), "some-uid", &kmsservice.DecryptRequest{
			Ciphertext: sealed.Ciphertext, KeyID: sealed.KeyID, Annotations: sealed.Annotations,
		})
		if err != nil || !bytes.Equal(opened, plaintext) {
			t.Fatalf("%q, %v", opened, err)
		}
	}
}

func TestTenThousandSecretsNeedFewCalls(t *testing.T) {
	const count = 10_000
	data := func(number int) []byte { return fmt.Appendf(nil, "the password of service %d", number) }
	server := startAPIServer(t)
	before := calls(t)
	var stored [count][]byte
	started := time.Now()
	for number := range count {
		name := fmt.Sprintf("/registry/secrets/default/secret-%d", number)
		stored[number] = server.mustWrite(name, data(number))
	}
	t.Logf("%d secrets written in %s", count, time.Since(started))
	restarted := startAPIServer(t) // has nothing in its cache
	for _, reader := range []apiServer{server, restarted} {
		for number := range count {
			name := fmt.Sprintf("/registry/secrets/default/secret-%d", number)
			if reader.mustRead(name, stored[number], data(number)) {
				t.Fatal("stale without a rotation")
			}
		}
	}
	// Of the restarted server: a status and a new data encryption key when it starts, and one decryption.
	if made := calls(t) - before; made > 10 {
		t.Fatalf("%d calls of the plugin", made)
	}
	_, _, err := server.TransformFromStorage(context.Background(), stored[0], value.DefaultContext("another place"))
	if err == nil {
		t.Fatal("an object can be moved")
	}
}

func TestRotationMakesOldObjectsStale(t *testing.T) {
	server := startAPIServer(t)
	old := server.mustWrite("old", []byte("before"))
	do(t, "rotate")
	var renewed []byte
	server.await("encrypted under the new version", func(error) bool {
		renewed = server.mustWrite("new", []byte("after"))
		return object(t, renewed).KeyID != object(t, old).KeyID
	})
	if err := server.healthy(); err != nil {
		t.Fatal(err)
	}
	if server.mustRead("new", renewed, []byte("after")) {
		t.Fatal("the new object is stale")
	}
	if !server.mustRead("old", old, []byte("before")) {
		t.Fatal("the old object is not stale: nothing would encrypt it anew")
	}
	// An API server that starts after the rotation asks the plugin for the old version.
	restarted := startAPIServer(t)
	if !restarted.mustRead("old", old, []byte("before")) {
		t.Fatal("the old object is not stale after a restart")
	}
	if restarted.mustRead("old", restarted.mustWrite("old", []byte("before")), []byte("before")) {
		t.Fatal("an object that was written again is still stale")
	}
}

func TestPluginMayBeAwayForAWhile(t *testing.T) {
	clock := newClock(t)
	server := startAPIServer(t)
	stored := server.mustWrite("name", []byte("data"))
	do(t, "stop")
	server.await("unhealthy", func(health error) bool { return health != nil })
	server.mustRead("name", stored, []byte("data"))
	server.mustRead("name", server.mustWrite("name", []byte("data")), []byte("data"))
	// After three minutes it may only read.
	clock.set(4 * time.Minute)
	if _, err := server.write("name", nil); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Fatalf("wrote without a plugin: %v", err)
	}
	server.mustRead("name", stored, []byte("data"))
	do(t, "start")
	server.awaitHealth()
	if object(t, server.mustWrite("name", nil)).KeyID != object(t, stored).KeyID {
		t.Fatal("another key_id after a restart of the plugin")
	}
	if startAPIServer(t).mustRead("name", stored, []byte("data")) {
		t.Fatal("stale after a restart of both")
	}
}

func TestKeyStoreMayBeAwayForLonger(t *testing.T) {
	clock := newClock(t)
	server := startAPIServer(t)
	stored := server.mustWrite("name", []byte("data"))
	do(t, "break the store")
	server.await("unhealthy because of the store", func(health error) bool {
		return health != nil && strings.Contains(health.Error(), "got unexpected healthz status: key ")
	})
	// The plugin still says which version encrypts, so writing goes on.
	clock.set(2 * time.Minute)
	before := calls(t)
	server.await("asked again", func(error) bool { return calls(t) > before+1 })
	clock.set(4 * time.Minute)
	server.mustRead("name", server.mustWrite("name", []byte("data")), []byte("data"))
	do(t, "repair the store")
	server.awaitHealth()
	if server.mustRead("name", stored, []byte("data")) {
		t.Fatal("stale after an outage")
	}
}

func TestDisabledKeyStopsWriting(t *testing.T) {
	clock := newClock(t)
	server := startAPIServer(t)
	server.mustWrite("name", []byte("data"))
	do(t, "disable")
	server.await("unhealthy", func(health error) bool {
		return health != nil && strings.Contains(health.Error(), "key is disabled")
	})
	clock.set(4 * time.Minute)
	if _, err := server.write("name", nil); err == nil {
		t.Fatal("wrote under a disabled key")
	}
	do(t, "enable")
	server.awaitHealth()
	server.mustWrite("name", nil)
}

// The last test: it deletes the key.
func TestZDeletedKeyIsNotAnotherOne(t *testing.T) {
	server := startAPIServer(t)
	stored := server.mustWrite("name", []byte("data"))
	do(t, "replace the key")
	restarted := startAPIServer(t)
	restarted.awaitHealth()
	if object(t, restarted.mustWrite("name", nil)).KeyID == object(t, stored).KeyID {
		t.Fatal("two keys have one key_id")
	}
	_, _, err := restarted.TransformFromStorage(context.Background(), stored, value.DefaultContext("name"))
	if err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Fatal(err)
	}
}
