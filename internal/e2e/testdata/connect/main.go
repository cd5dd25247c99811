// Connect is both ends of the benchmark of that name: `connect serve` accepts on the socket that it is handed and on one that it
// makes itself in a shared directory, as any program would; `connect ROUNDS` connects to the two by turns and prints the median of each.
package main

import (
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// Both are below the component's namespace, from which the program works so that neither name is too long (unix(7)).
const routed, bare = "svc/bench", "shared/s"

func main() {
	check(os.Chdir(os.Getenv("CMGR_NAMESPACE") + "/"))
	if os.Args[1] == "serve" {
		own := socket()
		check(syscall.Bind(own, &syscall.SockaddrUnix{Name: bare}))
		check(syscall.Listen(own, 4096))
		go accept(own)
		accept(3)
	}
	rounds, err := strconv.Atoi(os.Args[1])
	check(err)
	var took [2][]time.Duration
	for range rounds {
		for i, path := range []string{routed, bare} {
			begun := time.Now()
			fd := socket()
			check(syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}))
			var b [1]byte
			if _, err := syscall.Read(fd, b[:]); err != nil {
				log.Fatal(err)
			}
			took[i] = append(took[i], time.Since(begun))
			syscall.Close(fd)
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	fmt.Println("median", took[0][rounds/2].Nanoseconds(), took[1][rounds/2].Nanoseconds())
}

func socket() int {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(err)
	return fd
}

func accept(listener int) {
	for {
		fd, _, err := syscall.Accept(listener)
		check(err)
		syscall.Write(fd, []byte{1})
		syscall.Close(fd)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
