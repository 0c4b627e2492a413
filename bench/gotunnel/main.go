// A tunnel as people build it in Go: httputil.ReverseProxy over yamux. The agent moves bytes only, which is
// the cheapest form of it.
//
//	gotunnel -serve host:port -doors host:port,host:port      the public side: one door for each app
//	gotunnel -dial host:port -apps host:port,host:port        the laptop: stream byte i means app i
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"github.com/hashicorp/yamux"
)

func main() {
	serveAt := flag.String("serve", "", "where agents dial")
	doors := flag.String("doors", "", "public addresses")
	dialTo := flag.String("dial", "", "the server")
	apps := flag.String("apps", "", "the apps' addresses")
	flag.Parse()
	if *serveAt != "" {
		serve(*serveAt, strings.Split(*doors, ","))
	} else {
		agent(*dialTo, strings.Split(*apps, ","))
	}
}

func config() *yamux.Config {
	c := yamux.DefaultConfig()
	c.LogOutput = io.Discard
	return c
}

func serve(at string, doors []string) {
	listener, err := net.Listen("tcp", at)
	check(err)
	connection, err := listener.Accept()
	check(err)
	session, err := yamux.Server(connection, config())
	check(err)
	for i, door := range doors {
		transport := &http.Transport{MaxIdleConnsPerHost: 1024, DialContext: func(context.Context, string, string) (net.Conn, error) {
			stream, err := session.OpenStream()
			if err == nil {
				_, err = stream.Write([]byte{byte(i)})
			}
			return stream, err
		}}
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "laptop"})
		proxy.Transport = transport
		go func() { check(http.ListenAndServe(door, proxy)) }()
	}
	<-session.CloseChan()
}

func agent(server string, apps []string) {
	connection, err := net.Dial("tcp", server)
	check(err)
	session, err := yamux.Client(connection, config())
	check(err)
	for {
		stream, err := session.AcceptStream()
		check(err)
		go carry(stream, apps)
	}
}

func carry(stream *yamux.Stream, apps []string) {
	defer stream.Close()
	var which [1]byte
	if _, err := io.ReadFull(stream, which[:]); err != nil {
		return
	}
	app, err := net.Dial("tcp", apps[which[0]])
	if err != nil {
		return
	}
	defer app.Close()
	var both sync.WaitGroup
	both.Add(1)
	go func() {
		defer both.Done()
		io.Copy(app, stream)
		app.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(stream, app)
	stream.Close()
	both.Wait()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
