# Sends netlink messages one by one, each after the whole answer to the one before it. Standard input and output
# are frames: a length of 32 bits in the byte order of this machine, then so many bytes. The first frame is the
# protocol; then each frame is a list of messages, and is answered by a frame with all their answers.
use strict;
use warnings;
use Socket;

binmode STDIN;
binmode STDOUT;

sub frame {
    my $head = '';
    return undef if read(STDIN, $head, 4) != 4;
    my $size = unpack('L', $head);
    my $body = '';
    die "cut short\n" if $size && read(STDIN, $body, $size) != $size;
    return $body;
}

sub ends {
    my ($part) = @_;
    my ($place, $count) = (0, 0);
    while ($place + 16 <= length $part) {
        my ($size, $kind, $flags) = unpack('LSS', substr($part, $place, 8));
        $count++ if !($flags & 2) || $kind == 3;
        $size = ($size + 3) & ~3;
        $place += $size < 16 ? 16 : $size;
    }
    return $count;
}

my $protocol = unpack('L', frame());
socket(my $kernel, 16, SOCK_RAW, $protocol) or die "socket: $!\n";
setsockopt($kernel, SOL_SOCKET, SO_RCVTIMEO, pack('l!l!', 10, 0));
while (defined(my $messages = frame())) {
    my ($answer, $place) = ('', 0);
    while ($place + 16 <= length $messages) {
        my $size = unpack('L', substr($messages, $place, 4));
        last if $size < 16;
        $size = ($size + 3) & ~3;
        defined(send($kernel, substr($messages, $place, $size), 0)) or die "send: $!\n";
        $place += $size;
        my $left = 1;
        while ($left > 0) {
            my $part = '';
            defined(recv($kernel, $part, 1 << 18, 0)) or die "recv: $!\n";
            last if !length $part;
            $answer .= $part;
            $left -= ends($part);
        }
    }
    print pack('L', length $answer), $answer;
}
