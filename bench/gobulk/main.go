// An app and a client for large bodies, both fast enough not to limit what is measured.
//
//	gobulk serve host:port                         GET /N answers N bytes; a body of any other method is read
//	gobulk get|put host:port N [header: value]...  moves N bytes, prints the seconds it took
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const piece = 256 << 10

func main() {
	if os.Args[1] == "serve" {
		log.Fatal(http.ListenAndServe(os.Args[2], http.HandlerFunc(serve)))
	}
	size, err := strconv.Atoi(os.Args[3])
	check(err)
	started := time.Now()
	move(os.Args[1] == "put", os.Args[2], size, os.Args[4:])
	fmt.Println(time.Since(started).Seconds())
}

func serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		got := drain(r.Body)
		fmt.Fprint(w, got)
		return
	}
	left, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	w.Header().Set("content-length", strconv.Itoa(left))
	for zeros := make([]byte, piece); left > 0; {
		n, err := w.Write(zeros[:min(left, piece)])
		if err != nil {
			return
		}
		left -= n
	}
}

func move(up bool, address string, size int, headers []string) {
	connection, err := net.Dial("tcp", address)
	check(err)
	head := fmt.Sprintf("GET /%d HTTP/1.1\r\n", size)
	if up {
		head = fmt.Sprintf("PUT / HTTP/1.1\r\nContent-Length: %d\r\n", size)
	}
	_, err = io.WriteString(connection, head+"Host: app\r\nConnection: close\r\n"+strings.Join(append(headers, "\r\n"), "\r\n"))
	check(err)
	if up {
		zeros := make([]byte, piece)
		for left := size; left > 0; {
			n, err := connection.Write(zeros[:min(left, piece)])
			check(err)
			left -= n
		}
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	check(err)
	if response.StatusCode != http.StatusOK {
		log.Fatalf("status %d", response.StatusCode)
	}
	if up {
		answer, err := io.ReadAll(response.Body)
		check(err)
		if string(answer) != strconv.Itoa(size) {
			log.Fatalf("the app got %q bytes instead of %d", answer, size)
		}
	} else if got := drain(response.Body); got != size {
		log.Fatalf("got %d bytes instead of %d", got, size)
	}
}

func drain(body io.Reader) (total int) {
	buffer := make([]byte, piece)
	for {
		n, err := body.Read(buffer)
		total += n
		if err != nil {
			return total
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
