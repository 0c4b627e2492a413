// The reference: Go's httputil.ReverseProxy with the checks of the project that devroute replaces. It makes a
// proxy for each request and logs each; with -tuned it shares one transport and writes no log.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
)

func main() {
	listen := flag.String("listen", "", "host:port")
	tuned := flag.Bool("tuned", false, "share the transport, write no log")
	flag.Parse()
	shared := http.DefaultTransport.(*http.Transport).Clone()
	shared.MaxIdleConns, shared.MaxIdleConnsPerHost = 0, 1024
	relay := func(w http.ResponseWriter, r *http.Request) {
		var contract map[string]string
		raw := r.Header.Get("X-devroute")
		if raw == "" || json.Unmarshal([]byte(raw), &contract) != nil {
			http.Error(w, "no contract", http.StatusBadRequest)
			return
		}
		target, named := contract[r.Header.Get("X-devroute-matched")]
		host, _, err := net.SplitHostPort(target)
		if !named || err != nil {
			http.Error(w, "not in the contract", http.StatusBadRequest)
			return
		}
		if ip := net.ParseIP(host); ip == nil || !(ip.IsPrivate() || ip.IsLoopback()) {
			http.Error(w, "not a private address", http.StatusForbidden)
			return
		}
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
		if *tuned {
			proxy.Transport = shared
		} else {
			log.Printf("%s %s -> %s", r.Method, r.URL.Path, target)
		}
		proxy.ServeHTTP(w, r)
	}
	log.Fatal(http.ListenAndServe(*listen, http.HandlerFunc(relay)))
}
