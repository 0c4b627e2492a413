// A network that is long: passes connections on, each byte so much later, with no limit on what is under way.
//
//	godistance listen host:port milliseconds      both ways take half of these
package main

import (
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"time"
)

const (
	piece = 64 << 10
	// Pieces that may be under way in each direction: 1 GB/s at a round trip of half a second.
	underWay = 4096
)

type part struct {
	data []byte
	due  time.Time
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	check(err)
	round, err := strconv.ParseFloat(os.Args[3], 64)
	check(err)
	late := time.Duration(round / 2 * float64(time.Millisecond))
	for {
		near, err := listener.Accept()
		check(err)
		far, err := net.Dial("tcp", os.Args[2])
		if err != nil {
			near.Close()
			continue
		}
		go pass(near, far, late)
		go pass(far, near, late)
	}
}

// What arrives leaves after `late`; its end, too.
func pass(from, to net.Conn, late time.Duration) {
	parts := make(chan part, underWay)
	go func() {
		defer close(parts)
		for {
			data := make([]byte, piece)
			n, err := from.Read(data)
			if n > 0 {
				parts <- part{data[:n], time.Now().Add(late)}
			}
			if err != nil {
				if err != io.EOF {
					to.Close()
				}
				return
			}
		}
	}()
	for each := range parts {
		time.Sleep(time.Until(each.due))
		if _, err := to.Write(each.data); err != nil {
			from.Close()
		}
	}
	time.Sleep(late)
	to.Close()
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
