// The floor of grpc-go: a server that answers as many bytes as it is asked for, and does nothing else.
//
// It is `onair.bench.v1.Floor` of proto/bench, read and written by hand, so that nothing is generated for two fields;
// and it says who it is as a registry would, because the load program asks first.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Messages as the bytes they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// The reply to an echo: a payload of as many bytes as field 2 says.
func reply(request []byte) ([]byte, error) {
	wanted := uint64(0)
	for len(request) > 0 {
		number, kind, n := protowire.ConsumeTag(request)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		request = request[n:]
		if number == 2 && kind == protowire.VarintType {
			wanted, n = protowire.ConsumeVarint(request)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, request)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		request = request[n:]
	}
	if wanted > 4<<20 {
		return nil, fmt.Errorf("%d bytes are too many", wanted)
	}
	answer := protowire.AppendTag(make([]byte, 0, wanted+8), 1, protowire.BytesType)
	return protowire.AppendBytes(answer, make([]byte, wanted)), nil
}

// A unary method that answers what f makes of the request.
func unary(name string, f func([]byte) ([]byte, error)) grpc.MethodDesc {
	handler := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var request []byte
		if err := decode(&request); err != nil {
			return nil, err
		}
		answer, err := f(request)
		return &answer, err
	}
	return grpc.MethodDesc{MethodName: name, Handler: handler}
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.MaxConcurrentStreams(1<<20))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "onair.bench.v1.Floor",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{unary("Echo", reply)},
	}, nil)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "onair.v1.Registry",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{unary("GetServerInfo", func([]byte) ([]byte, error) { return nil, nil })},
	}, nil)
	log.Fatal(server.Serve(listener))
}
